// What the user reads at the end of a run.

include { readJson } from './files'

// The command as typed, without what belongs to one run alone: its name, the run that it resumes.
def plainCommand(line) {
    return line.replaceAll(/ -resume( [0-9a-f]{8}-[0-9a-f-]+|(?= |$))/, '').replaceAll(/ -name \S+/, '') + '\n'
}

// The answer and the report's path; after a failure, all that a checking step had to say and what to do next.
def farewell(workflow, outdir) {
    def ranking = file("${outdir}/ranking/ranking.json")
    if (workflow.success && ranking.exists()) {
        def found = readJson(ranking)
        def said = ([found.answer] + (found.cautions ?: [])).join('\n')
        println("\n${said}\n${failedTrials(found)}Report: ${file(outdir)}/ranking/report.html")
    }
    else if (!workflow.success) {
        println("\n${longMessage(workflow.errorReport ?: '')}The run stopped early. Put right what is said above and run the same")
        println('command with -resume: what is finished is not done again.')
    }
}

// Nextflow shows the last 50 lines of what a task said; the whole where there was more.
def longMessage(report) {
    def folder = report.readLines().dropWhile { line -> line.trim() != 'Work dir:' }.drop(1).take(1)
    def said = folder.collect { path -> file("${path.trim()}/.command.err") }.findAll { path -> path.exists() }
    def lines = said.collectMany { path -> path.readLines() }
    return lines.size() > 50 ? "${lines.join('\n')}\n\n" : ''
}

// How many trials failed and the first reason, or nothing.
def failedTrials(ranking) {
    def failed = ranking.failures?.trials ?: []
    return failed ? "${failed.size()} trial${failed.size() == 1 ? '' : 's'} failed, the first because: ${failed.first().reason}\n" : ''
}
