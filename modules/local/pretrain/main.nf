// Run one pretraining stage; one that fails still writes its folder, with the reason.
process PRETRAIN {
    tag "${meta.id}"
    label 'process_gpu'

    input:
    tuple val(meta), path(job, stageAs: 'job'), path(shards, stageAs: 'store/*'), path(parent, stageAs: 'parent/*'), path(files, stageAs: 'files/?/*')
    val state_dir
    val trusted
    val code

    output:
    tuple val(meta), path("encoders/${meta.id}", type: 'dir'), emit: encoder

    script:
    def from = parent ? "--parent ${parent}" : ''
    def named = [files].flatten().collect { file -> "--file ${file}" }.join(' ')
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    export TLIMB_ACCELERATOR=${task.accelerator ? 'gpu' : ''}
    tlimb_pretrain.py --job job --store store ${from} ${named} --threads ${task.cpus} \\
        --state-dir "${state_dir}" --code ${code} ${trust} ${task.ext.args ?: ''} --out encoders
    """

    stub:
    """
    mkdir -p encoders/${meta.id} && cd encoders/${meta.id}
    touch encoder.safetensors heads.safetensors model-card.md
    echo 'epoch,train_loss,validation_loss,lr,seconds' > history.csv
    echo '{"id": "${meta.id}", "status": "ok", "reason": ""}' > encoder.json
    echo '{"id": "${meta.id}", "set": "test", "status": "ok", "reason": "", "targets": {}}' > scores.json
    """
}
