// Look at what each encoder gives of the target's training scans, before anything is fine-tuned.
process PROBE {
    tag "${meta.id}"
    label 'process_gpu'

    input:
    tuple val(meta), path(job, stageAs: 'job'), path(shards, stageAs: 'store/*'), path(encoders, stageAs: 'encoders/*'), path(files, stageAs: 'files/?/*')
    path settings // of the sweep's `evaluate`, what is needed here
    val trusted
    val code

    output:
    tuple val(meta), path("probes/${meta.id}", type: 'dir'), emit: probe

    script:
    def pretrained = encoders ? '--encoders encoders' : ''
    def named = [files].flatten().collect { file -> "--file ${file}" }.join(' ')
    def trust = trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    export TLIMB_ACCELERATOR=${task.accelerator ? 'gpu' : ''}
    tlimb_probe.py --job job --store store ${pretrained} ${named} --settings ${settings} --threads ${task.cpus} \\
        ${trust} ${task.ext.args ?: ''} --out probes
    """

    stub:
    """
    mkdir -p probes/${meta.id}
    echo '{"id": "${meta.id}", "encoders": []}' > probes/${meta.id}/probe.json
    """
}
