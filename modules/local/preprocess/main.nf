// Turn a chunk of scans into one shard of a recipe's store, with quality numbers.
process PREPROCESS {
    tag "${meta.recipe} ${meta.chunk}"
    label 'process_cpu'

    input:
    tuple val(meta),
        path(chunk),
        path(recipe, stageAs: 'recipe.json'),
        path(images, stageAs: 'images/?/*'),
        path(masks, stageAs: 'masks/?/*')
    val code

    output:
    tuple val(meta), path("store/${meta.recipe}/shard-${meta.chunk}.{npy,parquet,json}", arity: '3'), emit: shard

    script:
    def own_masks = masks ? '--masks masks' : ''
    """
    tlimb_preprocess.py --chunk ${chunk} --recipe recipe.json --images images ${own_masks} \\
        --threads ${task.cpus} ${task.ext.args ?: ''} --out "store/${meta.recipe}"
    """

    stub:
    """
    mkdir -p "store/${meta.recipe}"
    cd "store/${meta.recipe}"
    touch shard-${meta.chunk}.npy shard-${meta.chunk}.parquet
    echo '{"chunk": "${meta.chunk}", "fingerprint": "000000000000", "n": 1, "shape": [1, 1, 1]}' > shard-${meta.chunk}.json
    """
}
