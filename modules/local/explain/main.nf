// Show what selected models look at, and where their features put the people.
process EXPLAIN {
    tag "${meta.id}"
    label 'process_gpu'

    input:
    tuple val(meta), path(job, stageAs: 'job'), path(shards, stageAs: 'store/*'), path(models, stageAs: 'models/*'), path(selected)
    path encoders, stageAs: 'encoders/*' // all: what a model starts from may itself start from others
    path cohort // cohort.parquet
    path settings // of the sweep's `evaluate`, what is needed here
    val trusted
    val code

    output:
    path 'explanations/*', type: 'dir', emit: explanations

    script:
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    export TLIMB_ACCELERATOR=${task.accelerator ? 'gpu' : ''}
    export NUMBA_CACHE_DIR="\${TMPDIR:-/tmp}/tlimb-numba-\$(id -u)" MPLCONFIGDIR="\$PWD/.matplotlib"
    mkdir -p encoders
    tlimb_explain.py --job job --store store --models models --encoders encoders --cohort ${cohort} --selected ${selected} \\
        --settings ${settings} --threads ${task.cpus} ${trust} ${task.ext.args ?: ''} --out explanations
    """

    stub:
    """
    mkdir -p explanations/111111111111
    echo '{"id": "111111111111", "methods": {}}' > explanations/111111111111/explain.json
    """
}
