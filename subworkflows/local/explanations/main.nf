// A closer look at the models that are chosen on validation.

include { EXPLAIN } from '../../../modules/local/explain'
include { SELECT } from '../../../modules/local/select'
include { readJson ; settle ; settleText } from '../utils/files'

workflow EXPLANATIONS {
    take:
    sweep // file
    cohort // file: cohort.parquet
    summary // file: cohort.json
    stores // a folder a recipe: parquet and json of its shards
    rounds // a folder a round: trials.jsonl, pretrainings.jsonl, study.json
    encoders // folders
    models // folders
    validation // folders: what was predicted on validation
    all // [round, meta, job folder, files of its shards, models] of each pack
    run // map: trusted
    codes // map: process -> digest of its library code

    main:
    looked = sweep.filter { path -> readJson(path).evaluate?.explained != 0 }
    SELECT(looked, summary, rounds, stores, encoders, models, validation, codes.SELECT)
    selected = SELECT.out.selected.map { path -> settle(workflow.workDir, path) }

    // [id, job folder, files of its shards, models, those of its trials that are looked at here] of each pack with a
    // selected trial: a trial of several rounds is looked at as the last of them left it
    packs = all
        .combine(selected)
        .flatMap { number, meta, folder, files, trained, chosen ->
            readJson(chosen).trials
                .findAll { trial -> trial.id in meta.trials }
                .collect { trial -> [trial.id, number, trial, [meta.subMap(['id']), folder, files, trained]] }
        }
        .groupTuple()
        .map { _id, numbers, trials, found -> [found[numbers.indexOf(numbers.max())], trials.first()] }
        .groupTuple()
        .map { pack, trials -> pack + [settleText(workflow.workDir, 'selected.json', listed(trials))] }
    wanted = sweep.map { path -> settleText(workflow.workDir, 'explaining.json', asked(readJson(path).evaluate)) }
    EXPLAIN(packs, encoders, cohort, wanted, run.trusted, codes.EXPLAIN)

    emit:
    explanations = EXPLAIN.out.explanations.flatten().toSortedList { a, b -> a.name <=> b.name }
}

// The form of SELECT's selected.json for some of its trials.
def listed(trials) {
    return groovy.json.JsonOutput.toJson([trials: trials.sort(false) { trial -> trial.id }])
}

def asked(evaluate) {
    def harmonising = evaluate.harmonise ? ['probe', 'harmonise', 'keeping', 'bootstrap', 'confidence'] : []
    return groovy.json.JsonOutput.toJson(evaluate.subMap(['seed', 'explain', 'explained'] + harmonising))
}
