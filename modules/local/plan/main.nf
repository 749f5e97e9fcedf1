// List what a sweep would run, with hours and gigabytes, and run nothing.
process PLAN {
    label 'process_check'
    cache false

    input:
    path sweep
    val run // map: trusted, trials_per_task, chunk_size

    output:
    stdout emit: said

    script:
    def trust = run.trusted.collect { name -> "--trusted ${name}" }.join(' ')
    """
    sweep="\$PWD/${sweep}"
    cd "${workflow.launchDir}"
    tlimb plan "\$sweep" --trials-per-task ${run.trials_per_task} --chunk-size ${run.chunk_size} ${trust} ${task.ext.args ?: ''}
    """

    stub:
    """
    echo 'A stub: nothing was planned.'
    """
}
