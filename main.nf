// From a samplesheet and a sweep to a ranked report.

include { PREPARE } from './subworkflows/local/prepare'
include { SEARCH } from './subworkflows/local/search'
include { RANK } from './modules/local/rank'
include { codeDigests ; settleText } from './subworkflows/local/utils/files'
include { farewell ; plainCommand } from './subworkflows/local/utils/messages'
include { checkWritable ; findInputs ; helpText ; readSettings } from './subworkflows/local/utils/settings'

workflow {
    main:
    helped = "${params.help}" == 'true'
    if (helped) {
        println(helpText(projectDir))
    }
    else {
        // [run: the pipeline's parameters, sweep: the sweep as the user wrote it]
        settings = readSettings(params, workflow)
        inputs = findInputs(settings.sweep, params, workflow)
        checkWritable(params.outdir)
        codes = codeDigests(projectDir)

        PREPARE(
            settleText(workflow.workDir, 'settings.json', groovy.json.JsonOutput.toJson(settings.sweep)),
            inputs,
            settings.run,
            codes,
        )
        SEARCH(
            PREPARE.out.sweep,
            PREPARE.out.cohort,
            PREPARE.out.summary,
            PREPARE.out.shards,
            PREPARE.out.stores,
            settings.run,
            codes,
        )
        RANK(
            PREPARE.out.sweep,
            PREPARE.out.cohort,
            PREPARE.out.summary,
            SEARCH.out.rounds,
            PREPARE.out.stores,
            PREPARE.out.montages,
            SEARCH.out.encoders,
            SEARCH.out.models,
            SEARCH.out.scores,
            file("${projectDir}/assets/report.html.j2"),
            settleText(workflow.workDir, 'command.txt', plainCommand(workflow.commandLine)),
            codes.RANK,
        )
    }

    workflow.onComplete = {
        if (!helped) {
            farewell(workflow, params.outdir)
        }
    }
}
