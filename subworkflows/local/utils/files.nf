// Files that keep their path and time as long as their content stays the same, so that a step that ran again and wrote
// what it had written before makes nothing after it run again.

// A copy of `file` at <root>/settled/<digest of name and content>/<name>.
def settle(root, file) {
    return settleBytes(root, file.name, file.bytes)
}

// A file of this name and text, settled.
def settleText(root, name, text) {
    return settleBytes(root, name, "${text}".getBytes('UTF-8'))
}

// A folder of this name with copies of `files`, settled.
def settleFolder(root, name, files) {
    def sorted = files.sort(false) { file -> file.name }
    def digest = "${name}/\n${sorted.collect { file -> "${file.name} ${file.bytes.sha256()}" }.join('\n')}".toString().sha256()
    return settleOnce(root, digest, name) { folder ->
        folder.mkdirs()
        sorted.each { file -> folder.resolve(file.name).bytes = file.bytes }
    }
}

def settleBytes(root, name, bytes) {
    return settleOnce(root, "${name}\n${bytes.sha256()}".toString().sha256(), name) { path -> path.bytes = bytes }
}

// <root>/settled/<digest>/<name>, written by `write` unless it is there; whole or not at all, whoever else writes it too.
def settleOnce(root, digest, name, write) {
    def home = file("${root}/settled/${digest}")
    if (!home.exists()) {
        def draft = file("${root}/settled/.${UUID.randomUUID()}")
        draft.mkdirs()
        write.call(draft.resolve(name))
        try {
            java.nio.file.Files.move(draft, home, java.nio.file.StandardCopyOption.ATOMIC_MOVE)
        }
        catch (java.nio.file.FileSystemException problem) {
            if (!home.exists()) {
                throw problem
            }
            draft.deleteDir()
        }
    }
    return home.resolve(name)
}

// The value of a JSON file.
def readJson(path) {
    return new groovy.json.JsonSlurper().parseText(path.getText('UTF-8'))
}

// process -> digest of its command and the library files that it imports, as listed by `python -m tlimb.imports`.
def codeDigests(root) {
    return readJson(file("${root}/assets/imports.json")).collectEntries { process, sources ->
        def parts = sources.collect { source -> "${source} ${file("${root}/${source}").bytes.sha256()}" }
        [process, parts.join('\n').sha256().take(12)]
    }
}
