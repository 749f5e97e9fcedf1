const all = (what, within = document) => [...within.querySelectorAll(what)];
const cell = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

for (const table of all("table.sortable")) {
  all("thead th", table).forEach((head, column, heads) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => (a === "") - (b === "") || (down ? -1 : 1) * (a - b || a.localeCompare(b, undefined, { numeric: true }) || 0);
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => order(cell(a, column), cell(b, column))));
      table.dispatchEvent(new Event("sorted"));
    });
  });
}

for (const table of all("table.filtered")) {
  const form = document.querySelector(".filters"), more = document.querySelector(".all"), said = form.querySelector("output");
  const fields = all("[data-filter]", form), first = Number(table.dataset.first), rows = [...table.tBodies[0].rows];
  let whole = rows.length <= first;
  const fits = row => fields.every(({ dataset: { filter }, value }) => filter === "text"
    ? value.toLowerCase().split(/[\s,]+/).every(word => row.textContent.toLowerCase().includes(word))
    : !value || row.querySelector(`[data-of=${filter}]`).textContent === value);
  const show = () => {
    const asked = fields.some(field => field.value), kept = new Set(rows.filter(fits));
    let place = 0;
    for (const row of table.tBodies[0].rows) row.hidden = !kept.has(row) || (!asked && !whole && place++ >= first);
    more.hidden = whole || asked;
    said.textContent = asked ? `${kept.size} of ${rows.length} candidates` : "";
  };
  form.hidden = rows.length < 3;
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  table.addEventListener("sorted", show);
  more.querySelector("button").addEventListener("click", () => { whole = true; show(); });
  show();
}

for (const box of all(".parallel")) {
  const marks = all("button.mark", box), paths = all(".path", box), said = document.querySelector("#paths-said");
  const show = () => {
    const chosen = new Map();
    for (const { dataset } of marks.filter(mark => mark.ariaPressed === "true"))
      chosen.set(dataset.axis, [...(chosen.get(dataset.axis) ?? []), dataset.index]);
    for (const path of paths) {
      const values = path.dataset.values.split(",");
      const kept = [...chosen].every(([axis, wanted]) => wanted.includes(values[axis]));
      path.classList.toggle("faded", !kept);
      path.classList.toggle("kept", kept && chosen.size > 0);
    }
    said.textContent = chosen.size ? `${paths.length - all(".faded", box).length} of ${paths.length} candidates have these values.` : "";
  };
  for (const mark of marks) mark.addEventListener("click", () => {
    mark.ariaPressed = mark.ariaPressed === "true" ? "false" : "true";
    show();
  });
}

let loading;
function plotly() {
  loading ??= (async () => {
    const packed = Uint8Array.from(atob(document.querySelector("#plotly").textContent), letter => letter.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
    return globalThis.Plotly;
  })();
  return loading;
}

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const axis = (title, more) => ({ title: { text: title, font: { size: 12 } }, gridcolor: colour("rule"), zeroline: false, linecolor: colour("rule"), ...more });
const layout = (x, y) => ({
  font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  margin: { l: 56, r: 12, t: 8, b: 46 }, hovermode: "closest", modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("edge"), activecolor: colour("ink") }, showlegend: false, dragmode: "zoom", xaxis: x, yaxis: y,
  hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("edge"), font: { color: colour("ink") } },
});
// Plotly reads names and texts as markup.
const plain = text => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const settings = { responsive: true, displaylogo: false, displayModeBar: innerWidth > 600 ? "hover" : false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

const drawn = {
  plot({ titles, log, series }) {
    const traces = series.map(one => ({
      type: "scatter", name: plain(one.name), x: one.x, y: one.y, text: one.texts.map(plain),
      mode: [one.line && "lines", one.dots && "markers"].filter(Boolean).join("+"),
      line: { color: colour(one.kind), width: 2, dash: one.dashed ? "dash" : "solid" },
      marker: { color: colour(one.kind), size: 8, opacity: one.kind === "c5" ? 0.55 : 1, line: { color: colour("paper"), width: 1 } },
      hovertemplate: (one.texts.length ? "%{text}<br>" : "") + "%{x:.4~g}, %{y:.4~g}<extra></extra>",
    }));
    return [traces, layout(axis(titles[0], log ? { type: "log" } : {}), axis(titles[1]))];
  },
  features({ layouts, titles, columns, texts }, place) {
    const form = document.querySelector(`form[data-for="${place.dataset.figure}"]`);
    const [name, column] = ["layout", "column"].map(part => form.querySelector(`[data-part=${part}]`)?.value);
    const [x, y] = layouts[name], { numbers, names } = columns[column] ?? { names: texts.map(() => "scans") };
    const one = (rows, label, marker) => ({
      type: "scatter", mode: "markers", name: plain(label), x: rows.map(i => x[i]), y: rows.map(i => y[i]),
      text: rows.map(i => `${plain(texts[i])}<br>${plain(column ?? "")} ${plain((numbers ?? names)[i] ?? "not known")}`),
      marker: { size: 7, line: { color: colour("paper"), width: 0.6 }, ...marker }, hovertemplate: "%{text}<extra></extra>",
    });
    const rows = texts.map((_, i) => i), groups = [...new Set(names)].sort();
    const traces = numbers
      ? [one(rows, column, { color: numbers, colorscale: "Viridis", showscale: true, colorbar: { thickness: 10, outlinewidth: 0 } })]
      : groups.map((group, at) => one(rows.filter(i => names[i] === group), group, { color: colour(`c${at % 6}`) }));
    const [across, up] = titles[name] ?? [`${name} 1`, `${name} 2`];
    return [traces, { ...layout(axis(across), axis(up)), showlegend: !numbers && groups.length > 1, legend: { orientation: "h", y: 1.12 } }];
  },
};

async function draw(place) {
  const spec = JSON.parse(document.querySelector(`#figure-${place.dataset.figure}`).textContent);
  const label = place.querySelector("[role=img]")?.getAttribute("aria-label");
  const library = await plotly(), box = document.createElement("div");
  box.className = "plotly-box";
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", label ?? "");
  const paint = () => library.react(box, ...drawn[spec.draws ?? "plot"](spec, place), settings);
  place.replaceChildren(box);
  await paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  for (const form of all(`form[data-for="${place.dataset.figure}"]`)) {
    form.hidden = false;
    form.addEventListener("input", paint);
  }
  place.dataset.drawn = "";
}

const seen = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) {
    seen.unobserve(target);
    draw(target);
  }
});
if (globalThis.DecompressionStream) all(".live").forEach(place => seen.observe(place));

for (const box of all(".scroll")) if (box.scrollWidth > box.clientWidth) {
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", box.querySelector("caption")?.textContent ?? "Figure, wider than the page");
}
addEventListener("beforeprint", () => {
  all("details").forEach(one => { one.open = true; });
  all("table.filtered tr").forEach(row => { row.hidden = false; });
});
