// Rounds of trials, as many as the search wants: each proposes from what the rounds before found on validation.

include { ROUND as ROUND_1 } from '../round'
include { ROUND as ROUND_2 } from '../round'
include { ROUND as ROUND_3 } from '../round'
include { ROUND as ROUND_4 } from '../round'
include { ROUND as ROUND_5 } from '../round'
include { ROUND as ROUND_6 } from '../round'
include { ROUND as ROUND_7 } from '../round'
include { ROUND as ROUND_8 } from '../round'

workflow SEARCH {
    take:
    sweep // file
    cohort // file: cohort.parquet
    summary // file: cohort.json
    shards // recipe -> chunk -> files
    stores // a folder a recipe: parquet and json of its shards
    study // a list: study.json of an earlier search that this one extends, or nothing
    run // map: trials_per_task, max_failed_scans, trusted, state_dir
    codes // map: process -> digest of its library code

    main:
    ROUND_1(1, study.map { files -> [files, []] }, channel.empty(), channel.empty(), sweep, cohort, summary, shards, stores, run, codes)
    encoders_1 = ROUND_1.out.encoders
    states_1 = ROUND_1.out.states
    ROUND_2(2, ROUND_1.out.next, encoders_1, states_1, sweep, cohort, summary, shards, stores, run, codes)
    encoders_2 = encoders_1.mix(ROUND_2.out.encoders)
    states_2 = states_1.mix(ROUND_2.out.states)
    ROUND_3(3, ROUND_2.out.next, encoders_2, states_2, sweep, cohort, summary, shards, stores, run, codes)
    encoders_3 = encoders_2.mix(ROUND_3.out.encoders)
    states_3 = states_2.mix(ROUND_3.out.states)
    ROUND_4(4, ROUND_3.out.next, encoders_3, states_3, sweep, cohort, summary, shards, stores, run, codes)
    encoders_4 = encoders_3.mix(ROUND_4.out.encoders)
    states_4 = states_3.mix(ROUND_4.out.states)
    ROUND_5(5, ROUND_4.out.next, encoders_4, states_4, sweep, cohort, summary, shards, stores, run, codes)
    encoders_5 = encoders_4.mix(ROUND_5.out.encoders)
    states_5 = states_4.mix(ROUND_5.out.states)
    ROUND_6(6, ROUND_5.out.next, encoders_5, states_5, sweep, cohort, summary, shards, stores, run, codes)
    encoders_6 = encoders_5.mix(ROUND_6.out.encoders)
    states_6 = states_5.mix(ROUND_6.out.states)
    ROUND_7(7, ROUND_6.out.next, encoders_6, states_6, sweep, cohort, summary, shards, stores, run, codes)
    encoders_7 = encoders_6.mix(ROUND_7.out.encoders)
    states_7 = states_6.mix(ROUND_7.out.states)
    ROUND_8(8, ROUND_7.out.next, encoders_7, states_7, sweep, cohort, summary, shards, stores, run, codes)

    // [number of the round, a trial's or job's folder]: a trial of several rounds counts as the last of them left it
    results = ROUND_1.out.results.mix(
            ROUND_2.out.results,
            ROUND_3.out.results,
            ROUND_4.out.results,
            ROUND_5.out.results,
            ROUND_6.out.results,
            ROUND_7.out.results,
            ROUND_8.out.results,
        )
    last = results
        .map { kind, number, folder -> ["${kind}/${folder.name}".toString(), number, folder] }
        .groupTuple()
        .map { key, numbers, folders -> [key.tokenize('/').first(), folders[numbers.indexOf(numbers.max())]] }

    emit:
    rounds = ROUND_1.out.round.mix(
            ROUND_2.out.round,
            ROUND_3.out.round,
            ROUND_4.out.round,
            ROUND_5.out.round,
            ROUND_6.out.round,
            ROUND_7.out.round,
            ROUND_8.out.round,
        ).toSortedList { a, b -> a.name <=> b.name }
    encoders = ROUND_1.out.encoders.mix(
            ROUND_2.out.encoders,
            ROUND_3.out.encoders,
            ROUND_4.out.encoders,
            ROUND_5.out.encoders,
            ROUND_6.out.encoders,
            ROUND_7.out.encoders,
            ROUND_8.out.encoders,
        ).map { _id, folder -> folder }.toSortedList { a, b -> a.name <=> b.name }
    models = last.filter { kind, _folder -> kind == 'models' }.map { _kind, folder -> folder }.toSortedList { a, b -> a.name <=> b.name }
    scores = last.filter { kind, _folder -> kind == 'scores' }.map { _kind, folder -> folder }.toSortedList { a, b -> a.name <=> b.name }
    validation = last.filter { kind, _folder -> kind == 'validation' }.map { _kind, folder -> folder }.toSortedList { a, b -> a.name <=> b.name }
    probes = last.filter { kind, _folder -> kind == 'probes' }.map { _kind, folder -> folder }.toSortedList { a, b -> a.name <=> b.name }
    // [number, meta, job folder, files of its shards, models] of each pack
    packs = ROUND_1.out.packs.mix(
            ROUND_2.out.packs,
            ROUND_3.out.packs,
            ROUND_4.out.packs,
            ROUND_5.out.packs,
            ROUND_6.out.packs,
            ROUND_7.out.packs,
            ROUND_8.out.packs,
        )
}
