// Propose the next trials, their splits, the pretrainings they need, and a job folder for each training task.
process SUGGEST {
    tag "round ${round}"
    label 'process_single'

    input:
    tuple path(study, stageAs: 'before/*'), path(validation, stageAs: 'validation/*') // of the round before; of round 1 a study to extend
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
    path "search/round-${round}/study.json", emit: study
    path 'search/progress.html', emit: page
    path 'jobs/*', type: 'dir', emit: jobs, optional: true

    script:
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    def known = round == 1 ? (study ? "--study ${study}" : '') : "--before ${study} --validation validation"
    """
    mkdir -p validation
    tlimb_suggest.py --sweep ${sweep} --cohort ${cohort} --cohort-json ${summary} --store store \\
        --round ${round} ${known} --page search/progress.html --trials-per-task ${trials_per_task} --max-failed-scans ${max_failed_scans} \\
        ${trust} ${task.ext.args ?: ''} --out search/round-${round}
    [ ! -d search/round-${round}/jobs ] || mv search/round-${round}/jobs jobs
    """

    stub:
    """
    job() { # id, kind, level, parent, inits, shards, trials
        mkdir -p jobs/\$1
        touch jobs/\$1/table.parquet
        printf '{"id": "%s", "kind": "%s", "level": %s, "parent": "%s", "inits": [%s], "shards": [%s], "trials": [%s], "recipe": "default", "files": []}' \
            "\$@" > jobs/\$1/job.json
    }
    if [ ${round} = 1 ]; then
        job aaaaaaaaaaaa pretrain 1 '' '' '"a", "b"' ''
        job bbbbbbbbbbbb pretrain 2 aaaaaaaaaaaa '' '"b"' ''
        job cccccccccccc probe 0 '' '"aaaaaaaaaaaa"' '"a"' ''
        job dddddddddddd finetune 0 '' '' '"a"' '{"id": "111111111111"}'
        job eeeeeeeeeeee finetune 0 '' '"aaaaaaaaaaaa", "bbbbbbbbbbbb"' '"a", "b"' '{"id": "222222222222"}, {"id": "333333333333"}'
    else
        job ffffffffffff finetune 0 '' '"bbbbbbbbbbbb"' '"a", "b"' '{"id": "222222222222", "continues": 1}'
    fi
    for pack in jobs/{dddddddddddd,eeeeeeeeeeee,ffffffffffff}; do
        [ ! -d \$pack ] || touch \$pack/table-{validation,test}.parquet
    done
    finished=true
    if [ ${round} = 1 ] && grep -q '"method": *"halving"' ${sweep}; then finished=false; fi

    mkdir -p search/round-${round}
    touch search/progress.html
    cd search/round-${round}
    touch splits.parquet
    printf '{"rounds": [], "finished": %s, "reason": "stub"}' \$finished > study.json
    printf '{"id": "%s", "level": %s, "parent": "%s"}\\n' aaaaaaaaaaaa 1 '' bbbbbbbbbbbb 2 aaaaaaaaaaaa > pretrainings.jsonl
    printf '{"id": "%s", "init": "%s"}\\n' 111111111111 '' 222222222222 aaaaaaaaaaaa 333333333333 bbbbbbbbbbbb > trials.jsonl
    """
}
