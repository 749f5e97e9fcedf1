// Choose on validation alone which models are looked at more closely.
process SELECT {
    label 'process_single'

    input:
    path sweep
    path summary
    path rounds, stageAs: 'search/*' // a folder a round: trials.jsonl, pretrainings.jsonl, study.json
    path stores, stageAs: 'store/*' // a folder a recipe: indexes and headers of its shards
    path encoders, stageAs: 'encoders/*'
    path models, stageAs: 'models/*'
    path validation, stageAs: 'validation/*' // nothing of the test set
    val code

    output:
    path 'selected.json', emit: selected

    script:
    """
    mkdir -p encoders
    tlimb_select.py --sweep ${sweep} --cohort-json ${summary} --search search --store store --encoders encoders \\
        --models models --validation validation ${task.ext.args ?: ''} --out selected.json
    """

    stub:
    """
    echo '{"trials": [{"id": "111111111111"}]}' > selected.json
    """
}
