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
    tlimb_suggest.py --sweep ${sweep} --cohort ${cohort} --cohort-json ${summary} --store store \\
        --round ${round} --trials-per-task ${trials_per_task} --max-failed-scans ${max_failed_scans} \\
        ${trust} ${task.ext.args ?: ''} --out search/round-${round}
    mv search/round-${round}/jobs jobs
    """

    stub:
    """
    job() { # id, kind, level, parent, inits, shards, trials
        mkdir -p jobs/\$1
        touch jobs/\$1/table.parquet
        printf '{"id": "%s", "kind": "%s", "level": %s, "parent": "%s", "inits": [%s], "shards": [%s], "trials": [%s], "recipe": "default", "files": []}' \
            "\$@" > jobs/\$1/job.json
    }
    job aaaaaaaaaaaa pretrain 1 '' '' '"a", "b"' ''
    job bbbbbbbbbbbb pretrain 2 aaaaaaaaaaaa '' '"b"' ''
    job dddddddddddd finetune 0 '' '' '"a"' '{"id": "111111111111"}'
    job eeeeeeeeeeee finetune 0 '' '"aaaaaaaaaaaa", "bbbbbbbbbbbb"' '"a", "b"' '{"id": "222222222222"}, {"id": "333333333333"}'
    touch jobs/{dddddddddddd,eeeeeeeeeeee}/table-{validation,test}.parquet

    mkdir -p search/round-${round}
    cd search/round-${round}
    touch splits.parquet
    printf '{"id": "%s", "level": %s, "parent": "%s"}\\n' aaaaaaaaaaaa 1 '' bbbbbbbbbbbb 2 aaaaaaaaaaaa > pretrainings.jsonl
    printf '{"id": "%s", "init": "%s"}\\n' 111111111111 '' 222222222222 aaaaaaaaaaaa 333333333333 bbbbbbbbbbbb > trials.jsonl
    """
}
