// Samplesheet and sweep -> checked cohort -> a store of preprocessed scans for each recipe.

include { COHORT } from '../../../modules/local/cohort'
include { PREPROCESS } from '../../../modules/local/preprocess'
include { readJson ; settle ; settleFolder ; settleText } from '../utils/files'

workflow PREPARE {
    take:
    settings // file: the sweep as the user wrote it
    samplesheet // file
    run // map: chunk_size, trusted
    codes // map: process -> digest of its library code

    main:
    COHORT(settings, samplesheet, run.chunk_size, run.trusted, codes.COHORT)
    sweep = COHORT.out.sweep.map { path -> settle(workflow.workDir, path) }

    // [recipe name, recipe file]
    recipes = sweep.flatMap { path ->
        readJson(path).recipes.collect { name, recipe ->
            [name, settleText(workflow.workDir, "recipe-${name}.json".toString(), groovy.json.JsonOutput.toJson(recipe))]
        }
    }

    // [meta, chunk file, recipe file, images, masks]
    work = recipes
        .combine(COHORT.out.chunks.flatten().map { path -> settle(workflow.workDir, path) })
        .map { name, recipe, chunk ->
            def content = readJson(chunk)
            def images = content.scans.collect { scan -> scan.image }
            def masks = content.scans.collect { scan -> scan.mask }.findAll { mask -> mask }
            [[recipe: name, chunk: content.chunk], chunk, recipe, existing(images), existing(masks)]
        }
    PREPROCESS(work, codes.PREPROCESS)

    // recipe -> chunk -> the shard's npy, parquet and json
    shards = PREPROCESS.out.shard
        .toList()
        .map { found ->
            found.groupBy { meta, _files -> meta.recipe }.collectEntries { recipe, group ->
                [recipe, group.collectEntries { meta, files -> [meta.chunk, files.sort(false) { path -> path.name }] }]
            }
        }

    // a folder a recipe with the shards' parquet and json
    stores = shards.map { all ->
        all.keySet().sort(false).collect { recipe ->
            settleFolder(workflow.workDir, recipe, all[recipe].values().flatten().findAll { path -> path.extension != 'npy' })
        }
    }

    emit:
    sweep
    cohort = COHORT.out.cohort.map { path -> settle(workflow.workDir, path) }
    summary = COHORT.out.summary.map { path -> settle(workflow.workDir, path) }
    shards
    stores
}

def existing(paths) {
    return paths.collect { path -> file(path, checkIfExists: true) }
}
