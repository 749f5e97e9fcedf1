# make demo      the demo cohorts, the pipeline on them, the report
# make test      the tests, real runs among them; `make test-all` adds the long ones
# make env       the set-up alone: .venv and a workflow engine (the others do it themselves)
# make lock      requirements.lock anew from pyproject.toml
# make clean     away with everything that is made here, but not with results

SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
units := OMP_NUM_THREADS=1 pytest -rs -n 2 --dist loadfile tests/python
runs := pytest -rs -n 2 --dist loadfile tests/pipeline --ignore tests/pipeline/test_slurm.py
cluster := pytest -rs tests/slurm tests/pipeline/test_slurm.py

.PHONY: demo test test-all nf-test env lock clean

demo: env demo/cohorts.csv
	nextflow run . -profile demo -resume
	@python -c 'import json; found = json.load(open("results/demo/ranking/ranking.json")); print("", found["answer"], *found["cautions"], sep="\n")'
	@echo "Report: $(CURDIR)/results/demo/ranking/report.html"

demo/cohorts.csv: | env
	tlimb demo-cohort demo --scans 600 --seed 0

test: env
	$(units) -m "not long"
	$(runs) -m "not long"
	$(cluster) -m "not long"
	$(MAKE) --no-print-directory nf-test

test-all: env
	$(units)
	$(runs)
	$(cluster)
	$(MAKE) --no-print-directory nf-test

nf-test: env
	@if command -v nf-test >/dev/null; then nf-test test; else echo "nf-test is not installed: its suites are skipped"; fi

env: .venv/made
	@command -v nextflow >/dev/null || python -m tlimb.engine

.venv/made: pyproject.toml requirements.lock scripts/setup.sh
	@scripts/setup.sh
	@touch $@

lock:
	uv pip compile --quiet --universal --generate-hashes --extra engine --extra export --extra test --python-version 3.11 --no-header \
		pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .nextflow .nextflow.log* .nf-test .nf-test.log .pytest_cache .hypothesis work demo
