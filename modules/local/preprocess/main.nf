// Turn a chunk of scans into one shard of a recipe's store, with quality numbers.
process PREPROCESS {
    tag "${meta.recipe} ${meta.chunk}"
    label 'process_cpu'

    input:
    tuple val(meta),
        path(chunk),
        path(recipe, stageAs: 'recipe.json'),
        path(images, stageAs: 'images/?/*'),
        path(masks, stageAs: 'masks/?/*'),
        path(confounds, stageAs: 'confounds/?/*'),
        path(atlas, stageAs: 'atlas/*')
    val code

    output:
    tuple val(meta), path("store/${meta.recipe}/shard-${meta.chunk}.{npy,parquet,json}", arity: '3'), emit: shard
    tuple val(meta), path("store/${meta.recipe}/shard-${meta.chunk}.montage.parquet"), emit: montage // slices of each scan

    script:
    def given = [masks ? '--masks masks' : '', confounds ? '--confounds confounds' : '', atlas ? '--atlas atlas' : ''].join(' ')
    """
    tlimb_preprocess.py --chunk ${chunk} --recipe recipe.json --images images ${given} \\
        --threads ${task.cpus} ${task.ext.args ?: ''} --out "store/${meta.recipe}"
    """

    stub:
    """
    mkdir -p "store/${meta.recipe}"
    cd "store/${meta.recipe}"
    touch shard-${meta.chunk}.npy shard-${meta.chunk}.parquet shard-${meta.chunk}.montage.parquet
    echo '{"chunk": "${meta.chunk}", "fingerprint": "000000000000", "n": 1, "shape": [1, 1, 1]}' > shard-${meta.chunk}.json
    """
}
