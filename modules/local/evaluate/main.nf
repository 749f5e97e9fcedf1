// Predict and score validation and test for a pack of trials. `validation` holds nothing of the test set.
process EVALUATE {
    tag "${meta.id}"
    label 'process_cpu'

    input:
    tuple val(meta), path(job, stageAs: 'job'), path(shards, stageAs: 'store/*'), path(models, stageAs: 'models/*')
    path settings // of the sweep's `evaluate`, what is needed here
    val trusted
    val code

    output:
    tuple val(meta), path('scores/*', type: 'dir'), emit: scores
    tuple val(meta), path('validation/*', type: 'dir'), emit: validation

    script:
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    tlimb_evaluate.py --job job --store store --models models --threads ${task.cpus} --settings ${settings} \\
        ${trust} ${task.ext.args ?: ''} --out scores
    for trial in ${meta.trials.join(' ')}; do
        mkdir -p validation/\$trial
        cp scores/\$trial/*-validation.* validation/\$trial/
    done
    """

    stub:
    """
    for trial in ${meta.trials.join(' ')}; do
        mkdir -p scores/\$trial validation/\$trial
        for set in validation test; do
            touch scores/\$trial/predictions-\$set.parquet
            printf '{"id": "%s", "set": "%s", "status": "ok", "reason": "", "targets": {}}\\n' \$trial \$set \\
                > scores/\$trial/scores-\$set.json
        done
        echo '{}' > scores/\$trial/fitted.json
        cp scores/\$trial/*-validation.* validation/\$trial/
    done
    """
}
