// Check the sweep and the samplesheet, report every problem at once, cut the scans into chunks.
process COHORT {
    label 'process_check'

    input:
    path settings, stageAs: 'settings.json'
    path samplesheet // CSV, TSV or BIDS folder
    path label_tables, stageAs: 'tables/?/*'
    path split_file, stageAs: 'split/*'
    path weights, stageAs: 'weights/?/*' // files and folders that stages start from
    path weights_list, stageAs: 'weights.json' // [path: as the sweep writes it, file: where it lies] of each
    val stamp // names, sizes and times of the files in BIDS folders: -resume sees when one changes
    val chunk_size
    val trusted // names of modules whose classes may be used
    val code // digest of the library files this process imports: -resume sees when they change

    output:
    path 'cohort/cohort.parquet', emit: cohort
    path 'cohort/cohort.json', emit: summary
    path 'cohort/sweep.json', emit: sweep
    path 'chunks/*/chunk-*.json', emit: chunks // a folder a recipe

    script:
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    def tables = [label_tables].flatten().collect { table -> "--label-table ${table}" }.join(' ')
    def split = split_file ? "--split-file ${split_file}" : ''
    def named = [weights].flatten().collect { file -> "--weights ${file}" }.join(' ')
    def starts = named ? "${named} --weights-list ${weights_list}" : ''
    """
    tlimb_cohort.py --settings ${settings} --samplesheet ${samplesheet} ${tables} ${split} \\
        --chunk-size ${chunk_size} ${starts} ${trust} ${task.ext.args ?: ''} --out cohort
    mv cohort/chunks chunks
    """

    stub:
    """
    mkdir -p cohort chunks/default
    touch cohort/cohort.parquet
    echo '{"scans": 1, "persons": 1, "cohorts": {}, "labels": {}, "split_file": null, "files": {}, "warnings": []}' > cohort/cohort.json
    python3 - <<'END' > cohort/sweep.json
    import json
    defaults = {"recipes": {"default": {}}, "evaluate": {"bootstrap": 1000, "confidence": 0.95, "seed": 0}}
    settings = json.load(open("${settings}"))
    settings["evaluate"] = defaults["evaluate"] | settings.get("evaluate", {})
    print(json.dumps(defaults | settings))
    END
    for chunk in a b; do
        printf '{"chunk": "%s", "scans": [{"scan_id": "stub/%s/1/T1w", "image": "%s", "mask": null, "confounds": null}]}\\n' \
            \$chunk \$chunk "\$(realpath ${samplesheet})" > chunks/default/chunk-\$chunk.json
    done
    """
}
