// Rounds of trials; grid search needs one.

include { ROUND as ROUND_1 } from '../round'

workflow SEARCH {
    take:
    sweep // file
    cohort // file: cohort.parquet
    summary // file: cohort.json
    shards // recipe -> chunk -> files
    stores // a folder a recipe: parquet and json of its shards
    run // map: trials_per_task, max_failed_scans, trusted, state_dir
    codes // map: process -> digest of its library code

    main:
    ROUND_1(1, channel.empty(), sweep, cohort, summary, shards, stores, run, codes)

    emit:
    rounds = ROUND_1.out.round.toSortedList { a, b -> a.name <=> b.name }
    encoders = ROUND_1.out.encoders.map { _id, folder -> folder }.toSortedList { a, b -> a.name <=> b.name }
    models = ROUND_1.out.models.flatten().toSortedList { a, b -> a.name <=> b.name }
    scores = ROUND_1.out.scores.flatten().toSortedList { a, b -> a.name <=> b.name }
}
