// From a samplesheet and a sweep to a ranked report.

include { PREPARE } from './subworkflows/local/prepare'
include { SEARCH } from './subworkflows/local/search'
include { EXPLANATIONS } from './subworkflows/local/explanations'
include { PLAN } from './modules/local/plan'
include { RANK } from './modules/local/rank'
include { codeDigests ; settleFolder ; settleText } from './subworkflows/local/utils/files'
include { farewell ; plainCommand } from './subworkflows/local/utils/messages'
include { checkWritable ; findInputs ; helpText ; readSettings ; withPaths } from './subworkflows/local/utils/settings'

workflow {
    main:
    helped = "${params.help}" == 'true'
    planned = "${params.plan}" == 'true'
    if (helped) {
        println(helpText(projectDir))
    }
    else if (planned) {
        settings = readSettings(params, workflow)
        inputs = findInputs(settings, params, workflow)
        located = withPaths(settings.sweep, inputs)
        PLAN(settleText(workflow.workDir, 'settings.json', groovy.json.JsonOutput.toJson(located)), inputs.study, settings.run)
        PLAN.out.said.view()
    }
    else {
        // [run: the pipeline's parameters, sweep: the sweep as the user wrote it]
        settings = readSettings(params, workflow)
        inputs = findInputs(settings, params, workflow)
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
            channel.value(inputs.study),
            settings.run,
            codes,
        )
        EXPLANATIONS(
            PREPARE.out.sweep,
            PREPARE.out.cohort,
            PREPARE.out.summary,
            PREPARE.out.stores,
            SEARCH.out.rounds,
            SEARCH.out.encoders,
            SEARCH.out.models,
            SEARCH.out.validation,
            SEARCH.out.packs,
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
            SEARCH.out.probes,
            EXPLANATIONS.out.explanations,
            settleFolder(workflow.workDir, 'report', file("${projectDir}/assets/report").listFiles().toList()),
            settleText(workflow.workDir, 'command.txt', plainCommand(workflow.commandLine)),
            codes.RANK,
        )
    }

    workflow.onComplete = {
        if (!helped && !planned) {
            farewell(workflow, params.outdir)
        }
    }
}
