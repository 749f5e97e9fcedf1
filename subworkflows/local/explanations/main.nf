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
    SELECT(sweep, summary, rounds, stores, encoders, models, validation, codes.SELECT)
    selected = SELECT.out.selected.map { path -> settle(workflow.workDir, path) }

    // packs with a selected trial, each trial in the last round that it was part of
    packs = all
        .combine(selected)
        .flatMap { number, meta, folder, files, trained, chosen ->
            readJson(chosen).trials
                .findAll { trial -> trial.id in meta.trials }
                .collect { trial -> [trial.id, number, [meta, folder, files, trained]] }
        }
        .groupTuple()
        .map { _id, numbers, found -> found[numbers.indexOf(numbers.max())] }
        .unique { pack -> pack[0].id }
        .map { meta, folder, files, trained -> [meta.subMap(['id']), folder, files, trained] }
    wanted = sweep.map { path -> settleText(workflow.workDir, 'explaining.json', asked(readJson(path).evaluate)) }
    EXPLAIN(packs, encoders, selected, cohort, wanted, run.trusted, codes.EXPLAIN)

    emit:
    explanations = EXPLAIN.out.explanations.flatten().toSortedList { a, b -> a.name <=> b.name }
}

def asked(evaluate) {
    return groovy.json.JsonOutput.toJson(evaluate.subMap(['seed', 'explain', 'explained']))
}
