// Pretrain level by level, each distinct pretraining once; look at what the encoders give; fine-tune packs of trials;
// evaluate them.

include { PRETRAIN as PRETRAIN_1 } from '../../../modules/local/pretrain'
include { PRETRAIN as PRETRAIN_2 } from '../../../modules/local/pretrain'
include { PRETRAIN as PRETRAIN_3 } from '../../../modules/local/pretrain'
include { PROBE } from '../../../modules/local/probe'
include { FINETUNE } from '../../../modules/local/finetune'
include { EVALUATE } from '../../../modules/local/evaluate'
include { settleFolder } from '../utils/files'

workflow TRANSFER {
    take:
    jobs // [job.json as a map, folder]
    shards // recipe -> chunk -> files
    known // encoders of earlier rounds: [id, folder]
    trained // states that earlier rounds left: [trial id@epochs, folder]
    scoring // file: what EVALUATE needs of the sweep's `evaluate`
    probing // file: what PROBE needs of it
    run // map: trusted, state_dir
    codes // map: process -> digest of its library code

    main:
    // states kept of trainings hold for the code that prepared their scans, too
    pretraining_code = "${codes.PREPROCESS}-${codes.PRETRAIN}".toString()
    finetuning_code = "${codes.PREPROCESS}-${codes.FINETUNE}".toString()

    // [meta, job folder, files of its shards], by level; meta.files: places of the weights that a task starts from
    work = jobs
        .combine(shards)
        .map { job, folder, all ->
            def ids = [trials: job.trials.collect { trial -> trial.id }, files: job.files.collect { given -> given.file }]
            def states = job.trials.findAll { trial -> trial.continues }.collect { trial -> "${trial.id}@${trial.continues}".toString() }
            def meta = job.subMap(['id', 'kind', 'level', 'parent', 'inits', 'devices']) + ids + [states: states]
            [meta, folder, job.shards.collectMany { chunk -> all[job.recipe][chunk] }]
        }
        .branch { meta, _folder, _files ->
            first: meta.level == 1
            second: meta.level == 2
            third: meta.level == 3
            probe: meta.kind == 'probe'
            pack: true
        }

    first = work.first.map { meta, folder, files -> pretraining(meta, folder, files, []) }
    PRETRAIN_1(first, run.state_dir, run.trusted, pretraining_code)
    known_1 = known.mix(PRETRAIN_1.out.encoder.map { meta, folder -> [meta.id, folder] })

    PRETRAIN_2(withParent(work.second, known_1), run.state_dir, run.trusted, pretraining_code)
    known_2 = known_1.mix(PRETRAIN_2.out.encoder.map { meta, folder -> [meta.id, folder] })

    PRETRAIN_3(withParent(work.third, known_2), run.state_dir, run.trusted, pretraining_code)
    known_3 = known_2.mix(PRETRAIN_3.out.encoder.map { meta, folder -> [meta.id, folder] })

    // [job id, its encoders]: a job waits for just those that it needs
    probed = gathered(work.probe.map { meta, _folder, _files -> [meta.id, meta.inits] }, known_3)
    encoders = gathered(work.pack.map { meta, _folder, _files -> [meta.id, meta.inits] }, known_3)
    // [job id, the states that its trials continue from]
    states = gathered(work.pack.map { meta, _folder, _files -> [meta.id, meta.states] }, trained)

    PROBE(
        work.probe
            .map { meta, folder, files -> [meta.id, meta, folder, files] }
            .join(probed)
            .map { _id, meta, folder, files, found -> [meta.subMap(['id', 'devices']), seen(folder), files, found, named(meta)] },
        probing,
        run.trusted,
        codes.PROBE,
    )

    packs = work.pack
        .map { meta, folder, files -> [meta.id, meta, folder, files] }
        .join(encoders)
        .join(states)

    FINETUNE(
        packs.map { _id, meta, folder, files, from, before -> [task(meta), seen(folder), files, from, before, named(meta)] },
        run.state_dir,
        run.trusted,
        finetuning_code,
    )

    // [meta, job folder, files of its shards, models]
    finetuned = packs
        .map { id, meta, folder, files, _from, _before -> [id, meta.subMap(['id', 'trials']), whole(folder), files] }
        .join(FINETUNE.out.models.map { meta, models -> [meta.id, models] })
        .map { _id, meta, folder, files, models -> [meta, folder, files, models] }

    EVALUATE(
        finetuned,
        scoring,
        run.trusted,
        codes.EVALUATE,
    )

    emit:
    encoders = PRETRAIN_1.out.encoder.mix(PRETRAIN_2.out.encoder, PRETRAIN_3.out.encoder).map { meta, folder -> [meta.id, folder] }
    packs = finetuned // [meta, job folder, files of its shards, models]
    probes = PROBE.out.probe.map { _meta, folder -> folder }
    models = FINETUNE.out.models.map { _meta, folders -> folders }
    states = FINETUNE.out.states.map { _meta, folders -> folders }
    scores = EVALUATE.out.scores.map { _meta, folders -> folders }
    validation = EVALUATE.out.validation.map { _meta, folders -> folders }
}

// [job id, what it needs]: jobs with the keys of what they need, and [key, folder] of all there is.
def gathered(jobs, all) {
    return jobs
        .flatMap { id, keys -> keys.collect { key -> [key, groupKey(id, keys.size())] } }
        .combine(all, by: 0)
        .map { _key, id, folder -> [id, folder] }
        .groupTuple()
        .map { id, folders -> [id.toString(), folders.sort(false) { folder -> folder.name }] }
        .mix(jobs.filter { _id, keys -> !keys }.map { id, _keys -> [id, []] })
}

// Pretrainings with the encoder that each starts from.
def withParent(work, known) {
    return work
        .map { meta, folder, files -> [meta.parent, meta, folder, files] }
        .combine(known, by: 0)
        .map { _id, meta, folder, files, parent -> pretraining(meta, folder, files, parent) }
}

def pretraining(meta, folder, files, parent) {
    return [task(meta), seen(folder), files, parent, named(meta)]
}

// The files and folders of weights that a task starts from, in the order of its job.
def named(meta) {
    return meta.files.collect { path -> file(path, checkIfExists: true, glob: false) }
}

// What names a training and decides its outputs and its devices.
def task(meta) {
    return meta.subMap(['id', 'trials', 'devices'])
}

def whole(folder) {
    return settleFolder(workflow.workDir, folder.name, folder.listFiles().toList())
}

// The part of a job folder that training may see: nothing with the labels of validation and test sets apart.
def seen(folder) {
    return settleFolder(workflow.workDir, folder.name, ['job.json', 'table.parquet'].collect { name -> folder.resolve(name) })
}
