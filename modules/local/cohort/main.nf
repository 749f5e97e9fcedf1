// Check the sweep and the samplesheet, report every problem at once, cut the scans into chunks.
process COHORT {
    label 'process_check'

    input:
    path settings, stageAs: 'settings.json'
    path samplesheet
    val chunk_size
    val trusted // names of modules whose classes may be used
    val code // digest of the library files this process imports: -resume sees when they change

    output:
    path 'cohort/cohort.parquet', emit: cohort
    path 'cohort/cohort.json', emit: summary
    path 'cohort/sweep.json', emit: sweep
    path 'chunks/chunk-*.json', emit: chunks

    script:
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    tlimb_cohort.py --settings ${settings} --samplesheet ${samplesheet} \\
        --chunk-size ${chunk_size} ${trust} ${task.ext.args ?: ''} --out cohort
    mv cohort/chunks chunks
    """

    stub:
    """
    mkdir cohort chunks
    touch cohort/cohort.parquet
    echo '{"scans": 1, "persons": 1, "cohorts": {}, "labels": {}, "warnings": []}' > cohort/cohort.json
    python3 - <<'END' > cohort/sweep.json
    import json
    defaults = {"recipes": {"default": {}}, "evaluate": {"bootstrap": 1000, "confidence": 0.95, "seed": 0}}
    settings = json.load(open("${settings}"))
    settings["evaluate"] = defaults["evaluate"] | settings.get("evaluate", {})
    print(json.dumps(defaults | settings))
    END
    for chunk in a b; do
        printf '{"chunk": "%s", "scans": [{"scan_id": "stub/%s/1/T1w", "image": "%s", "mask": null}]}\\n' \
            \$chunk \$chunk "\$(realpath ${samplesheet})" > chunks/chunk-\$chunk.json
    done
    """
}
