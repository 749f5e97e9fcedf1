// Pretrain level by level, each distinct pretraining once; fine-tune packs of trials; evaluate them.

include { PRETRAIN as PRETRAIN_1 } from '../../../modules/local/pretrain'
include { PRETRAIN as PRETRAIN_2 } from '../../../modules/local/pretrain'
include { PRETRAIN as PRETRAIN_3 } from '../../../modules/local/pretrain'
include { FINETUNE } from '../../../modules/local/finetune'
include { EVALUATE } from '../../../modules/local/evaluate'
include { settleFolder } from '../utils/files'

workflow TRANSFER {
    take:
    jobs // [job.json as a map, folder]
    shards // recipe -> chunk -> files
    known // encoders of earlier rounds: [id, folder]
    intervals // map for EVALUATE: bootstrap, confidence, seed
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
            def meta = job.subMap(['id', 'level', 'parent', 'inits', 'devices']) + ids
            [meta, folder, job.shards.collectMany { chunk -> all[job.recipe][chunk] }]
        }
        .branch { meta, _folder, _files ->
            first: meta.level == 1
            second: meta.level == 2
            third: meta.level == 3
            pack: true
        }

    first = work.first.map { meta, folder, files -> pretraining(meta, folder, files, []) }
    PRETRAIN_1(first, run.state_dir, run.trusted, pretraining_code)
    known_1 = known.mix(PRETRAIN_1.out.encoder.map { meta, folder -> [meta.id, folder] })

    PRETRAIN_2(withParent(work.second, known_1), run.state_dir, run.trusted, pretraining_code)
    known_2 = known_1.mix(PRETRAIN_2.out.encoder.map { meta, folder -> [meta.id, folder] })

    PRETRAIN_3(withParent(work.third, known_2), run.state_dir, run.trusted, pretraining_code)
    known_3 = known_2.mix(PRETRAIN_3.out.encoder.map { meta, folder -> [meta.id, folder] })

    // [pack id, its encoders]: a pack waits for just those it starts from
    ready = work.pack
        .flatMap { meta, _folder, _files -> meta.inits.collect { id -> [id, groupKey(meta.id, meta.inits.size())] } }
        .combine(known_3, by: 0)
        .map { _id, pack, encoder -> [pack, encoder] }
        .groupTuple()
        .map { pack, encoders -> [pack.toString(), encoders.sort(false) { folder -> folder.name }] }
        .mix(work.pack.filter { meta, _folder, _files -> !meta.inits }.map { meta, _folder, _files -> [meta.id, []] })

    FINETUNE(
        work.pack
            .map { meta, folder, files -> [meta.id, meta, folder, files] }
            .join(ready, failOnMismatch: true)
            .map { _id, meta, folder, files, encoders -> [task(meta), seen(folder), files, encoders, named(meta)] },
        run.state_dir,
        run.trusted,
        finetuning_code,
    )

    EVALUATE(
        work.pack
            .map { meta, folder, files -> [meta.id, meta, folder, files] }
            .join(FINETUNE.out.models.map { meta, models -> [meta.id, models] })
            .map { _id, meta, folder, files, models -> [meta.subMap(['id', 'trials']), whole(folder), files, models] },
        intervals,
        run.trusted,
        codes.EVALUATE,
    )

    emit:
    encoders = known_3 // [id, folder], those of earlier rounds too
    models = FINETUNE.out.models.map { _meta, folders -> folders }
    scores = EVALUATE.out.scores.map { _meta, folders -> folders }
    validation = EVALUATE.out.validation.map { _meta, folders -> folders }
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
