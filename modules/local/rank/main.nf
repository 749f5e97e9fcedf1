// Select on validation, report test for what was selected, write the tables and the page.
process RANK {
    label 'process_single'

    input:
    path sweep
    path cohort // cohort.parquet
    path summary
    path rounds, stageAs: 'search/*' // a folder a round: trials.jsonl, pretrainings.jsonl, study.json
    path stores, stageAs: 'store/*' // a folder a recipe: indexes and headers of its shards
    path montages, stageAs: 'montages/*' // a folder a recipe: pictures of its scans
    path encoders, stageAs: 'encoders/*'
    path models, stageAs: 'models/*'
    path scores, stageAs: 'scores/*'
    path probes, stageAs: 'probes/*'
    path explanations, stageAs: 'explanations/*'
    path template // folder
    path command
    val code

    output:
    path 'ranking/ranking.csv', emit: csv
    path 'ranking/ranking.json', emit: json
    path 'ranking/report.html', emit: report
    path 'ranking/**', emit: files

    script:
    """
    export MPLCONFIGDIR="\$PWD/.matplotlib"
    mkdir -p encoders montages probes explanations
    tlimb_rank.py --sweep ${sweep} --cohort-table ${cohort} --cohort-json ${summary} --search search --store store \\
        --montages montages --encoders encoders --models models --probes probes --explanations explanations --scores scores --template ${template} --command ${command} ${task.ext.args ?: ''} --out ranking
    """

    stub:
    """
    mkdir ranking
    echo 'rank,candidate,name,strategy,architecture,trials,failed,metric' > ranking/ranking.csv
    echo '{"answer": "A stub ran: nothing was trained.", "candidates": []}' > ranking/ranking.json
    echo '<!doctype html><title>stub</title>' > ranking/report.html
    """
}
