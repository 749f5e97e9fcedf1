// Samplesheet and sweep -> checked cohort -> a store of preprocessed scans for each recipe.

include { COHORT } from '../../../modules/local/cohort'
include { PREPROCESS } from '../../../modules/local/preprocess'
include { readJson ; settle ; settleFolder ; settleText } from '../utils/files'

workflow PREPARE {
    take:
    settings // file: the sweep as the user wrote it
    inputs // map: samplesheet (file or folder), label_tables, split_file, weights (path as written -> file), stamp
    run // map: chunk_size, trusted
    codes // map: process -> digest of its library code

    main:
    COHORT(
        settings,
        inputs.samplesheet,
        inputs.label_tables,
        inputs.split_file,
        inputs.weights.values().toList(),
        settleText(workflow.workDir, 'weights.json', weightsList(inputs.weights)),
        inputs.stamp,
        run.chunk_size,
        run.trusted,
        codes.COHORT,
    )
    sweep = COHORT.out.sweep.map { path -> settle(workflow.workDir, path) }

    // [recipe name, recipe file, atlas files if the recipe names one by its path]
    recipes = sweep.flatMap { path ->
        readJson(path).recipes.collect { name, recipe ->
            def text = groovy.json.JsonOutput.toJson(recipe)
            [name, settleText(workflow.workDir, "recipe-${name}.json".toString(), text), atlasFiles(recipe)]
        }
    }

    // [recipe name, chunk file]
    chunks = COHORT.out.chunks.flatten().map { path -> [path.parent.name, settle(workflow.workDir, path)] }

    // [meta, chunk file, recipe file, images, masks, confounds, atlas]
    work = recipes
        .combine(chunks, by: 0)
        .map { name, recipe, atlas, chunk ->
            def content = readJson(chunk)
            def files = ['image', 'mask', 'confounds'].collect { key -> existing(content.scans.collect { scan -> scan[key] }) }
            [[recipe: name, chunk: content.chunk], chunk, recipe] + files + [atlas]
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

    // a folder a recipe with its shards' montages
    montages = PREPROCESS.out.montage
        .map { meta, path -> [meta.recipe, path] }
        .groupTuple()
        .map { recipe, paths -> settleFolder(workflow.workDir, recipe, paths) }
        .toSortedList { a, b -> a.name <=> b.name }

    emit:
    sweep
    cohort = COHORT.out.cohort.map { path -> settle(workflow.workDir, path) }
    summary = COHORT.out.summary.map { path -> settle(workflow.workDir, path) }
    shards
    stores
    montages
}

// [{path, file}] of the files that stages start from, as JSON.
def weightsList(weights) {
    return groovy.json.JsonOutput.toJson(weights.collect { path, file -> [path: path, file: file.toUriString()] })
}

// The files at some paths, letter by letter: brackets and stars in a name are no patterns.
def existing(paths) {
    return paths.findAll { path -> path }.collect { path -> file(path, checkIfExists: true, glob: false) }
}

// The label image that a recipe names by its path, or those in a folder, with the table of names beside it; short names
// have no dot or slash.
def atlasFiles(recipe) {
    if (!(recipe.atlas =~ /[.\/]/)) {
        return []
    }
    def image = existing([recipe.atlas]).first()
    if (image.isDirectory()) {
        return image.listFiles().findAll { path -> path.name ==~ /.*\.(nii|nii\.gz|tsv|csv)/ }.sort(false) { path -> path.name }
    }
    def stem = image.name.replaceAll(/\.nii(\.gz)?$/, '')
    return [image] + ['.tsv', '.csv'].collect { end -> image.resolveSibling(stem + end) }.findAll { path -> path.exists() }
}
