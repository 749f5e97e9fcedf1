// One round: propose trials, then run them.

include { SUGGEST } from '../../../modules/local/suggest'
include { TRANSFER } from '../transfer'
include { readJson ; settleFolder } from '../utils/files'

workflow ROUND {
    take:
    number // of this round, from 1
    known // encoders of earlier rounds: [id, folder]
    sweep // file
    cohort // file: cohort.parquet
    summary // file: cohort.json
    shards // recipe -> chunk -> files
    stores // a folder a recipe: parquet and json of its shards
    run // map: trials_per_task, max_failed_scans, trusted, state_dir
    codes // map: process -> digest of its library code

    main:
    SUGGEST(sweep, cohort, summary, stores, number, run.trials_per_task, run.max_failed_scans, run.trusted, codes.SUGGEST)

    // [job.json as a map, folder]
    jobs = SUGGEST.out.jobs.flatten().map { folder -> [readJson(folder.resolve('job.json')), folder] }
    intervals = sweep.map { path -> readJson(path).evaluate.subMap(['bootstrap', 'confidence', 'seed']) }
    TRANSFER(jobs, shards, known, intervals, run, codes)

    emit:
    // a folder round-<number> with trials.jsonl and pretrainings.jsonl
    round = SUGGEST.out.trials
        .combine(SUGGEST.out.pretrainings)
        .map { trials, pretrainings -> settleFolder(workflow.workDir, "round-${number}".toString(), [trials, pretrainings]) }
    encoders = TRANSFER.out.encoders // [id, folder]
    models = TRANSFER.out.models // folders of a pack
    scores = TRANSFER.out.scores // folders of a pack
    validation = TRANSFER.out.validation // folders of a pack, nothing of the test set
}
