// Train the last stage of a pack of trials; one that fails is a result with its reason.
process FINETUNE {
    tag "${meta.id}"
    label 'process_gpu'

    input:
    tuple val(meta), path(job, stageAs: 'job'), path(shards, stageAs: 'store/*'), path(encoders, stageAs: 'encoders/*'), path(states, stageAs: 'states/*'), path(files, stageAs: 'files/?/*')
    val state_dir
    val trusted
    val code

    output:
    tuple val(meta), path('models/*', type: 'dir'), emit: models
    tuple val(meta), path('left/*', type: 'dir'), emit: states // what a later round continues from

    script:
    def pretrained = encoders ? '--encoders encoders' : ''
    def continued = states ? '--states states' : ''
    def named = [files].flatten().collect { file -> "--file ${file}" }.join(' ')
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    export TLIMB_ACCELERATOR=${task.accelerator ? 'gpu' : ''}
    tlimb_finetune.py --job job --store store ${pretrained} ${continued} ${named} --threads ${task.cpus} \\
        --state-dir "${state_dir}" --code ${code} ${trust} ${task.ext.args ?: ''} --out models
    for trial in ${meta.trials.join(' ')}; do
        mkdir -p left/\$trial
        cp models/\$trial/model.json left/\$trial/
        [ ! -e models/\$trial/state.safetensors ] || mv models/\$trial/state.safetensors left/\$trial/
    done
    """

    stub:
    """
    for trial in ${meta.trials.join(' ')}; do
        mkdir -p models/\$trial
        touch models/\$trial/model.safetensors models/\$trial/model-card.md
        echo 'epoch,train_loss,validation_loss,lr,seconds' > models/\$trial/history.csv
        printf '{"id": "%s", "status": "ok", "reason": "", "budget": 1}\\n' \$trial > models/\$trial/model.json
        mkdir -p left/\$trial
        cp models/\$trial/model.json left/\$trial/
    done
    """
}
