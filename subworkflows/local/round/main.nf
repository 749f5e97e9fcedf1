// One round: propose trials, then run them.

include { SUGGEST } from '../../../modules/local/suggest'
include { TRANSFER } from '../transfer'
include { readJson ; settleFolder ; settleText } from '../utils/files'

workflow ROUND {
    take:
    number // of this round, from 1
    before // [study.json of the round before, or of a search to extend, its trials' validation folders]; empty: no round
    known // encoders of earlier rounds: [id, folder]
    trained // states that earlier rounds left: [trial id@epochs, folder]
    sweep // file
    cohort // file: cohort.parquet
    summary // file: cohort.json
    shards // recipe -> chunk -> files
    stores // a folder a recipe: parquet and json of its shards
    run // map: trials_per_task, max_failed_scans, trusted, state_dir
    codes // map: process -> digest of its library code

    main:
    SUGGEST(before, sweep, cohort, summary, stores, number, run.trials_per_task, run.max_failed_scans, run.trusted, codes.SUGGEST)

    // [job.json as a map, folder]
    jobs = SUGGEST.out.jobs.flatten().map { folder -> [readJson(folder.resolve('job.json')), folder] }
    evaluate = sweep.map { path -> readJson(path).evaluate }
    scoring = evaluate.map { all -> settings('scoring', all.subMap(['bootstrap', 'confidence', 'seed', 'operating_point', 'coverage', 'dropout'])) }
    probing = evaluate.map { all -> settings('probing', all.subMap(['seed', 'probe', 'harmonise', 'keeping'])) }
    TRANSFER(jobs, shards, known, trained, scoring, probing, run, codes)

    told = TRANSFER.out.validation.flatten().toSortedList { a, b -> a.name <=> b.name }

    emit:
    // a folder round-<number> with trials.jsonl, pretrainings.jsonl and study.json
    round = SUGGEST.out.trials
        .combine(SUGGEST.out.pretrainings)
        .combine(SUGGEST.out.study)
        .map { files -> settleFolder(workflow.workDir, "round-${number}".toString(), files) }
    // [study.json, validation folders] for the next round, nothing where the search has ended
    next = SUGGEST.out.study
        .filter { path -> !readJson(path).finished }
        .combine(told.map { folders -> [folders] })
        .map { study, folders -> [settleText(workflow.workDir, 'study.json', study.text), folders] }
    encoders = TRANSFER.out.encoders // [id, folder], new ones
    // [trial id@epochs that it has trained for, folder]
    states = TRANSFER.out.states.flatten().map { folder -> ["${folder.name}@${readJson(folder.resolve('model.json')).budget}".toString(), folder] }
    // [models, scores, validation or probes, number, folder]
    results = TRANSFER.out.models
        .flatten()
        .map { folder -> ['models', number, folder] }
        .mix(
            TRANSFER.out.scores.flatten().map { folder -> ['scores', number, folder] },
            TRANSFER.out.validation.flatten().map { folder -> ['validation', number, folder] },
            TRANSFER.out.probes.map { folder -> ['probes', number, folder] },
        )
    packs = TRANSFER.out.packs.map { pack -> [number] + pack }
}

// Those keys of the sweep's `evaluate` that a step looks at, as a file.
def settings(name, values) {
    return settleText(workflow.workDir, "${name}.json".toString(), groovy.json.JsonOutput.toJson(values))
}
