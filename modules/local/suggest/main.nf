// Propose the next trials, their splits, the pretrainings they need, and a job folder for each training task.
process SUGGEST {
    tag "round ${round}"
    label 'process_single'

    input:
    path sweep
    path cohort
    path summary
    path stores, stageAs: 'store/*' // a folder a recipe: indexes and headers of its shards
    val round
    val trials_per_task
    val max_failed_scans
    val trusted
    val code

    output:
    path "search/round-${round}/trials.jsonl", emit: trials
    path "search/round-${round}/pretrainings.jsonl", emit: pretrainings
    path "search/round-${round}/splits.parquet", emit: splits
    path 'jobs/*', type: 'dir', emit: jobs

    script:
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    tlimb_suggest.py --sweep ${sweep} --cohort ${cohort} --cohort-json ${summary} --store store --round ${round} \\
        --trials-per-task ${trials_per_task} --max-failed-scans ${max_failed_scans} ${trust} ${task.ext.args ?: ''} --out search/round-${round}
    mv search/round-${round}/jobs jobs
    """

    stub:
    """
    mkdir -p search/round-${round} && cd search/round-${round}
    touch splits.parquet
    echo '{"id": "aaaaaaaaaaaa", "level": 1, "parent": ""}' > pretrainings.jsonl
    echo '{"id": "bbbbbbbbbbbb", "level": 2, "parent": "aaaaaaaaaaaa"}' >> pretrainings.jsonl
    printf '{"id": "%s", "candidate": "%s", "init": "%s"}\\n' 111111111111 1c1c1c1c1c1c "" 222222222222 2c2c2c2c2c2c aaaaaaaaaaaa 333333333333 3c3c3c3c3c3c bbbbbbbbbbbb > trials.jsonl
    cd ../.. && mkdir -p jobs/aaaaaaaaaaaa jobs/bbbbbbbbbbbb jobs/dddddddddddd jobs/eeeeeeeeeeee
    printf '{"id": "aaaaaaaaaaaa", "kind": "pretrain", "level": 1, "parent": "", "inits": [], "recipe": "default", "shards": ["a", "b"]}' > jobs/aaaaaaaaaaaa/job.json
    printf '{"id": "bbbbbbbbbbbb", "kind": "pretrain", "level": 2, "parent": "aaaaaaaaaaaa", "inits": [], "recipe": "default", "shards": ["b"]}' > jobs/bbbbbbbbbbbb/job.json
    printf '{"id": "dddddddddddd", "kind": "finetune", "level": 0, "parent": "", "inits": [], "recipe": "default", "shards": ["a"], "trials": [{"id": "111111111111"}]}' > jobs/dddddddddddd/job.json
    printf '{"id": "eeeeeeeeeeee", "kind": "finetune", "level": 0, "parent": "", "inits": ["aaaaaaaaaaaa", "bbbbbbbbbbbb"], "recipe": "default", "shards": ["a", "b"], "trials": [{"id": "222222222222"}, {"id": "333333333333"}]}' > jobs/eeeeeeeeeeee/job.json
    touch jobs/aaaaaaaaaaaa/table.parquet jobs/bbbbbbbbbbbb/table.parquet
    for pack in dddddddddddd eeeeeeeeeeee; do
        touch jobs/\$pack/table.parquet jobs/\$pack/table-validation.parquet jobs/\$pack/table-test.parquet
    done
    """
}
