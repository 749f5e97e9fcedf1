// List what a sweep would run, with hours and gigabytes, and run nothing.
process PLAN {
    label 'process_check'
    cache false

    input:
    path sweep
    path study // study.json of an earlier search that this one extends, or nothing
    val run // map: trusted, trials_per_task, chunk_size

    output:
    stdout emit: said

    script:
    def trust = run.trusted.collect { name -> "--trusted ${name}" }.join(' ')
    def known = study ? "--study \"\$study\"" : ''
    """
    sweep="\$PWD/${sweep}"
    study="\$PWD/${study}"
    cd "${workflow.launchDir}"
    tlimb plan "\$sweep" --trials-per-task ${run.trials_per_task} --chunk-size ${run.chunk_size} ${known} ${trust} ${task.ext.args ?: ''}
    """

    stub:
    """
    echo 'A stub: nothing was planned.'
    """
}
