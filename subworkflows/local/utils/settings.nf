// What the user asked for, from everywhere it may stand: flag over file over profile (its preset) over default.

include { settle } from './files'

// The groups of parameters in nextflow_schema.json: `sweep` (its keys) and `run` (the pipeline's own).
def schemaGroups(root) {
    return new groovy.json.JsonSlurper().parseText(file("${root}/nextflow_schema.json").text).get('$defs')
}

// The text of --help.
def helpText(root) {
    def schema = new groovy.json.JsonSlurper().parseText(file("${root}/nextflow_schema.json").text)
    def groups = schema.get('$defs').values().collect { group ->
        def lines = group.properties.collect { name, property ->
            def preset = property.default == null ? '' : " [${property.default}]"
            "  --${name.padRight(18)} ${property.type.padRight(8)} ${property.description}${preset}"
        }
        "${group.title}\n${lines.join('\n')}"
    }
    return "${schema.description}\n\n${schema.usage.join('\n')}\n\n${groups.join('\n\n')}\n"
}

// The words of a command line as Nextflow records it: quoted by '...' or, where a word holds a quote, by backslashes.
def words(line) {
    return line.findAll(/(?:'[^']*'|\\.|[^\s'\\])+/).collect { word ->
        word.startsWith("'") ? word[1..-2] : word.replaceAll(/\\(.)/, '$1')
    }
}

// The names of the parameters given as flags: ['outdir', 'search.seeds'].
def flagNames(line) {
    return words(line)
        .findAll { word -> word ==~ /--[A-Za-z][\w.-]*(=.*)?/ }
        .collect { word -> word.drop(2).takeWhile { letter -> letter != '=' } }
        .findAll { name -> !(name in ['params-file', 'paramsFile']) }
        .unique()
}

// The sweep file and how it came: [path: 'sweep.json', ours: false] after -params-file, ours: true after --params-file.
def sweepFile(given, line) {
    def own = given.getOrDefault('paramsFile', given.getOrDefault('params-file', null))
    if (own != null) {
        return [path: "${own}".toString(), ours: true]
    }
    def all = words(line)
    def at = all.findIndexOf { word -> word == '-params-file' }
    def joined = all.find { word -> word.startsWith('-params-file=') }
    def path = at >= 0 ? all[at + 1] : joined ? joined.drop('-params-file='.size()) : System.getenv('NXF_PARAMS_FILE')
    return path ? [path: path, ours: false] : null
}

// A JSON object from a file; stops with one plain sentence where that fails.
def readDocument(path, what) {
    def source = file(path, glob: false)
    if (!source.exists() || source.isDirectory()) {
        error("${what} not found: ${path} (looked for ${source})")
    }
    def document = null
    try {
        document = new groovy.json.JsonSlurper().parseText(source.getText('UTF-8'))
    }
    catch (groovy.json.JsonException problem) {
        error("${what} ${path} is not valid JSON: ${jsonProblem(problem)}")
    }
    catch (IOException problem) {
        error("${what} ${path} cannot be read: ${problem.message}")
    }
    if (!(document instanceof Map)) {
        def found = document instanceof List ? 'a list' : 'a single value'
        error("${what} ${path} holds ${found}; expected a JSON object with the keys of a sweep")
    }
    return document
}

// What is wrong and on which line, out of a JSON parser's many lines.
def jsonProblem(problem) {
    def lines = problem.message.readLines().findAll { text -> text.trim() }
    return (lines.take(1) + lines.findAll { text -> text =~ /^line number/ }).unique().join(', ')
}

// The value at a path of keys, or null.
def valueAt(map, path) {
    def value = map instanceof Map ? map.get(path.head()) : null
    return path.size() == 1 ? value : valueAt(value, path.tail())
}

// The map with the value at a path of keys replaced.
def withValue(map, path, value) {
    def base = map instanceof Map ? map : [:]
    return base + [(path.head()): path.size() == 1 ? value : withValue(base.get(path.head()), path.tail(), value)]
}

// The map without the value at a path of keys; a map left empty by that goes too.
def without(map, path) {
    if (!(map instanceof Map) || !map.containsKey(path.head())) {
        return map
    }
    def rest = path.size() == 1 ? null : without(map.get(path.head()), path.tail())
    def others = map.findAll { entry -> entry.key != path.head() }
    return rest ? others + [(path.head()): rest] : others
}

// A flag's text as a value: JSON where it is JSON ([0, 1], 3, true), else the text itself.
def flagValue(value) {
    if (!(value instanceof CharSequence)) {
        return value
    }
    try {
        def values = new groovy.json.JsonSlurper().parseText("[${value}]".toString())
        return values.size() == 1 ? values.first() : value.toString()
    }
    catch (groovy.json.JsonException _problem) {
        return value.toString()
    }
}

// Everything the user set, by precedence; null counts as not set. `given` holds what Nextflow merged itself: configuration,
// -params-file and flags.
def merged(given, line) {
    def flags = flagNames(line).collect { name -> name.tokenize('.') }
    def own = flags.inject(given as Map) { map, path -> without(map, path) }
    def preset = given.preset ? readDocument("${given.preset}", 'Preset') : [:]
    def source = sweepFile(given, line)
    def written = source && source.ours ? readDocument(source.path, 'Params file') : [:]
    def base = [preset, own, written].inject([:]) { all, more -> all + more.findAll { entry -> entry.value != null } }
    return flags.inject(base) { map, path -> withValue(map, path, flagValue(valueAt(given, path))) }
}

def asText(value) {
    return value instanceof List ? value.join(',') : "${value}".toString()
}

// What is wrong with a parameter's value, in words; null where nothing is.
def valueProblem(name, property, value) {
    def text = asText(value)
    def forms = [integer: /-?\d+/, number: /-?\d+(\.\d*)?([eE][-+]?\d+)?/, boolean: /true|false/, string: /(?s).*/]
    def expected = [integer: 'a whole number', number: 'a number', boolean: 'true or false']
    if (!(text ==~ forms[property.type])) {
        return "--${name}: expected ${expected[property.type]}, found '${text}'"
    }
    if (property.pattern && !(text ==~ property.pattern)) {
        return "--${name}: expected ${property.form}, found '${text}'"
    }
    if (property.minimum != null && text.toDouble() < property.minimum) {
        return "--${name}: expected at least ${property.minimum}, found ${text}"
    }
    return null
}

// A checked value as the type that the schema names; later releases of Nextflow hand over text.
def cast(property, value) {
    def text = asText(value)
    return [integer: { text.toLong() }, number: { text.toDouble() }, boolean: { text == 'true' }, string: { text }][property.type].call()
}

// The name in `valid` that shares most pairs of letters with `name`.
def nearestName(name, valid) {
    return valid.max { other ->
        letterPairs(name).intersect(letterPairs(other)).size() / Math.max(letterPairs(name).size() + letterPairs(other).size(), 1)
    }
}

def letterPairs(text) {
    return text.toLowerCase().replaceAll(/[^a-z0-9]/, '').toList().collate(2, 1, false).collect { pair -> pair.join('') }.toSet()
}

// Everything that is wrong with the flags and the pipeline's parameters, in words.
def settingsProblems(all, schema, line) {
    def valid = schema.values().collectMany { group -> group.properties.keySet() }
    def unknown = flagNames(line).collect { name -> name.tokenize('.').head() }.unique().findAll { name -> !(name in valid) }
    def given = schema.run.properties.findAll { name, _property -> all[name] != null }
    def pathless = ['input', 'outdir'].findAll { name -> all[name] instanceof Boolean }
    return unknown.collect { name -> "--${name}: no such parameter; did you mean --${nearestName(name, valid)}?" } +
        given.collect { name, property -> valueProblem(name, property, all[name]) }.findAll { problem -> problem } +
        pathless.collect { name -> "--${name}: expected a path, found nothing" } +
        (all.input ? [] : ['no input: name a samplesheet by --input or as "input" in the file given as --params-file'])
}

// [run: the pipeline's parameters, sweep: the sweep as the user wrote it], or an error that names all that is wrong.
def readSettings(given, workflow) {
    def schema = schemaGroups(workflow.projectDir)
    def all = merged(given, workflow.commandLine)
    def problems = settingsProblems(all, schema, workflow.commandLine)
    if (problems) {
        def heading = "${problems.size()} problem${problems.size() == 1 ? '' : 's'} in the settings; nothing was started"
        error("${heading}\n${problems.collect { problem -> "  - ${problem}" }.join('\n')}")
    }
    def run = schema.run.properties.findAll { name, _property -> all[name] != null }
    def settings = run.collectEntries { name, property -> [name, cast(property, all[name])] }
    def derived = [
        state_dir: settings.state_dir ?: "${workflow.workDir}/state".toString(),
        trusted: (settings.trusted_modules ?: '').tokenize(','),
    ]
    def others = schema.run.properties.keySet() + ['params-file', 'paramsFile', 'pipeline_info']
    def sweep = all.findAll { name, _value -> !(name in others) }
    return [run: settings + derived, sweep: sweep + [outdir: "${given.outdir}".toString()]]
}

// [samplesheet: file or BIDS folder, label_tables: files, split_file: file or nothing, weights: path as written -> file,
//  study: study.json of a search to extend or nothing, stamp: text that changes with BIDS folders]
def findInputs(settings, given, workflow) {
    def sweep = settings.sweep
    def source = sweepFile(given, workflow.commandLine)
    def places = [workflow.launchDir] + (source ? [file(source.path, glob: false).toAbsolutePath().parent] : [])
    def samplesheet = findInput(places, 'input', sweep.input)
    def tables = sweep.label_tables instanceof List ? sweep.label_tables : [sweep.label_tables]
    def split = sweep.split instanceof Map ? sweep.split.file : null
    return [
        samplesheet: samplesheet,
        label_tables: tables.findAll { path -> path }.collect { path -> findInput(places, 'label_tables', path) },
        split_file: split ? findInput(places, 'split.file', split) : [],
        weights: weightsPaths(sweep).collectEntries { path -> [path, findInput(places, 'weights', path)] },
        study: settings.run.study ? studyIn(findInput(places, 'study', settings.run.study), true, workflow) : studyBefore(sweep, workflow),
        stamp: bidsFolders(samplesheet).collect { folder -> stampOf(folder) }.join(' '),
    ]
}

// The sweep with its input, tables and file of splits at the places where they were found.
def withPaths(sweep, inputs) {
    def found = [input: "${inputs.samplesheet}".toString()]
    def tables = inputs.label_tables ? [label_tables: inputs.label_tables.collect { path -> "${path}".toString() }] : [:]
    def split = inputs.split_file ? [split: sweep.split + [file: "${inputs.split_file}".toString()]] : [:]
    return sweep + found + tables + split
}

// What a search left of itself in outdir, where it is resumed and asks for more than its space lists.
def studyBefore(sweep, workflow) {
    def method = "${sweep.search instanceof Map ? sweep.search.method : ''}".replace(' ', '')
    def asks = workflow.resume && method in ['random', 'bayes']
    return asks ? studyIn(file(sweep.outdir, glob: false).resolve('search'), false, workflow) : []
}

// A copy of a study.json: a file of that name, or the last round's in a folder of rounds.
def studyIn(path, needed, workflow) {
    def folders = path.isDirectory() ? path.listFiles().findAll { folder -> folder.name ==~ /round-\d+/ } : []
    def ordered = folders.sort(false) { folder -> folder.name.drop('round-'.size()).toInteger() }
    def studies = ordered.collect { folder -> folder.resolve('study.json') }.findAll { study -> study.exists() }
    def last = path.isDirectory() ? lastOf(studies) : path
    if (needed && !last) {
        error("--study: no round-<k>/study.json in ${path}; nothing was started")
    }
    return last && last.exists() ? [settle(workflow.workDir, last)] : []
}

// The last of the studies of rounds that belong together; those that an earlier search of more rounds left are none of
// them: they follow a finished one, or know of other trials in the rounds before.
def lastOf(studies) {
    def asked = studies.collect { study -> trialsAsked(study) }
    def other = studies.indices.find { i -> i > 0 && (asked[i - 1].finished || asked[i].rounds.take(i) != asked[i - 1].rounds) }
    return studies ? studies[(other ?: studies.size()) - 1] : null
}

// [finished, rounds: the trials of each] of a study.json; nothing where it cannot be read, which SUGGEST tells.
def trialsAsked(study) {
    try {
        def known = new groovy.json.JsonSlurper().parseText(study.getText('UTF-8'))
        def rounds = (known.rounds ?: []).collect { round -> (round.points ?: []).collect { point -> point.trials } }
        return [finished: known.finished, rounds: rounds]
    }
    catch (groovy.json.JsonException _problem) {
        return [finished: false, rounds: []]
    }
}

// Every path of weights and of map files in a sweep, as written: they stand under a key that ends with `weights`, or with
// `weights.path` or `weights.map` in the space. A map that is no path of a .json file is the name of a ready one.
def weightsPaths(node) {
    if (node instanceof List) {
        return node.collectMany { item -> weightsPaths(item) }.toUnique()
    }
    if (!(node instanceof Map)) {
        return []
    }
    return node
        .collectMany { key, value ->
            def values = value instanceof Map && value.variants instanceof List ? value.variants : value instanceof List ? value : [value]
            def own = key.endsWith('weights') ? values.findAll { one -> one instanceof Map } : []
            def single = key =~ /weights\.(path|map)$/ ? values.collect { one -> [(key.tokenize('.').last()): one] } : []
            (own + single).collectMany { weights -> pathsOf(weights) } + weightsPaths(value)
        }
        .toUnique()
}

def pathsOf(weights) {
    def map = weights.map instanceof CharSequence && weights.map.endsWith('.json') ? [weights.map] : []
    return (weights.path instanceof CharSequence ? [weights.path] : []) + map
}

// A relative path is looked for in the launch directory, then beside the sweep file.
def findInput(places, name, given) {
    def paths = places.collect { place -> file("${place}").resolve("${given}") }.unique()
    def found = paths.find { path -> path.exists() && (name in ['input', 'weights', 'study'] || !path.isDirectory()) }
    if (!found) {
        def what = name == 'input' ? 'Samplesheet or BIDS folder' : "File of ${name}"
        error("${what} not found: ${given} (looked for ${paths.join(' and ')}); nothing was started")
    }
    return found
}

// The BIDS folders that the input is or names in one of its cells.
def bidsFolders(samplesheet) {
    if (samplesheet.isDirectory()) {
        return [samplesheet]
    }
    def home = samplesheet.toRealPath().parent
    def folders = home.listFiles().findAll { path -> path.isDirectory() }.collect { path -> path.name } + ['.', '..']
    return samplesheet.text
        .split(/[,;\t\r\n]/)
        .collect { cell -> cell.replaceAll(/^[\s"]+|[\s"]+$/, '') }
        .toUnique()
        .findAll { cell -> cell in folders || cell.contains('/') && !(cell ==~ /.*\.(nii|nii\.gz|csv|tsv|npy)/) }
        .collect { cell -> home.resolve(cell) }
        .findAll { path -> path.isDirectory() }
}

// A digest of the names, sizes and times of the files in a folder.
def stampOf(folder) {
    def lines = []
    folder.eachFileRecurse { path ->
        if (path.isFile()) {
            lines << "${path} ${path.size()} ${path.lastModified()}".toString()
        }
    }
    return lines.sort(false).join('\n').sha256()
}

// Stops where the folder for results cannot be made or written to.
def checkWritable(folder) {
    def path = file(folder, glob: false)
    def probe = path.resolve(".tlimb-${UUID.randomUUID()}")
    try {
        path.mkdirs()
        probe.text = ''
        probe.delete()
    }
    catch (IOException problem) {
        def told = problem instanceof java.nio.file.FileSystemException ? problem.reason : null
        def reason = told ?: problem.class.simpleName
        error("Cannot write to outdir ${folder} (${reason}); nothing was started")
    }
}
