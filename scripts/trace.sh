#!/usr/bin/env bash
# Requirement trace: joins the requirements in docs/rfc/*.tsv with the places in code and tests that cite them, and keeps
# the table of coverage in README.md. Reads files only; nothing is built or run. The rules of citations are in
# CONTRIBUTING.md.
set -euo pipefail

root="$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)")"
cd "$root"

usage() {
    cat <<'TEXT'
usage: scripts/trace.sh [--write | --show DOCUMENT | --help]

Fails, and says why,
  - on a requirement that no code or no test cites, unless its row is an exception with a reason;
  - on an exception that is cited as if it were met, and on a row that is wrong in itself;
  - on a citation of a requirement that no file in docs/rfc has, or with the section of another;
  - on a citation of a test that stands at no test, or of code that stands in a test;
  - when docs/rfc/behaviour.tsv and docs/behaviour.md do not have the same rows;
  - when the table in README.md is not the one that follows.
Prints the table of coverage.

  --write          puts the table into README.md instead of comparing it
  --show DOCUMENT  the rows of 9293 (or of another RFC, or behaviour), each with the places that cite it
  --help           this text
TEXT
}

# Every line of every source that may cite, after the rows of the tables; prints problems, then the table.
# A row: id, section, level, requirement, status, reason. Status done; exception, whose reason says why; same, whose reason
# names the row of another document that says the same ("RFC 9293 MUST-13").
# shellcheck disable=SC2016 # awk's variables
readonly PROGRAM='
function problem(text) { problems[++problem_count] = text }

function basename_of(path) { sub(/.*\//, "", path); return path }

function take_row(document, key) {
    if (FNR == 1) {
        document_count++
        documents[document_count] = document
        titles[document] = substr($0, 3)
    }
    if ($0 ~ /^#/ || $0 == "") return
    if (NF != 6) { problem(FILENAME ":" FNR ": " NF " columns, not 6"); return }
    key = document " " $1
    if (key in section) problem(FILENAME ":" FNR ": " $1 " stands here twice")
    if ($3 != "MUST" && $3 != "SHOULD" && $3 != "MAY") problem(FILENAME ":" FNR ": level " $3)
    if ($5 != "done" && $5 != "exception" && $5 != "same") problem(FILENAME ":" FNR ": status " $5)
    if ($4 == "") problem(FILENAME ":" FNR ": " $1 " has no words")
    if ($5 == "done" && $6 != "") problem(FILENAME ":" FNR ": " $1 " is done and has a reason")
    if ($5 != "done" && $6 == "") problem(FILENAME ":" FNR ": " $1 " has no reason")
    order[document, ++rows[document]] = key
    section[key] = $2
    level[key] = $3
    words[key] = $4
    status[key] = $5
    reason[key] = $6
}

function cite(key, is_test, at, where) {
    if (!(key in section)) { problem(where ": nothing in docs/rfc is called " key); return }
    if (at != "" && at != section[key]) problem(where ": " key " is in section " section[key] ", not " at)
    if (is_test) tests[key] = tests[key] " " where; else code[key] = code[key] " " where
}

function take_citation(text, where, is_test, document, at, token, colon) {
    is_test = sub(/^test /, "", text)
    colon = index(text, ": ")
    if (colon > 0) text = substr(text, 1, colon - 1)
    if (!is_test && in_tests) problem(where ": cites code, and stands in a test")
    document = ""
    while (match(text, /RFC [0-9]+|REF|§[0-9]+(\.[0-9]+)*|(MUST|SHLD|MAY|REC)-[0-9]+|[A-Z]-[0-9]+/)) {
        token = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (token ~ /^RFC /) { document = substr(token, 5); at = "" }
        else if (token == "REF") { document = "behaviour"; at = "" }
        else if (token ~ /^§/) { sub(/^§/, "", token); at = token }
        else if (document == "behaviour") cite(document " " token, is_test, "", where)
        else if (token ~ /^....*-/) cite(document " " token, is_test, at, where)
    }
    return is_test
}

# In Rust a test is cited directly before or after the mark that makes a function a test, or inside of that function.
function take_rust() {
    if ($0 == end_of_test) end_of_test = ""
    if ($0 ~ /^ *#\[test\]/) { marked = 1; return }
    if ($0 ~ /^ *(\/\/|#\[)/ || $0 ~ /^ *$/) return
    if (marked && match($0, /^ *(pub )?fn /)) {
        end_of_test = $0
        sub(/[^ ].*/, "}", end_of_test)
        cited = ""
    }
    if (cited != "") problem(cited ": cites a test, and stands at none")
    marked = 0
    cited = ""
    if ($0 ~ /^mod tests \{/) in_tests = 1
}

FNR == 1 {
    if (cited != "") problem(cited ": cites a test, and stands at none")
    cited = ""
    marked = 0
    end_of_test = ""
    in_tests = FILENAME ~ /\/tests\/|\/tests\.rs$|^c-tests\/|\.pkt$|^scripts\//
    is_rust = FILENAME ~ /\.rs$/
}

FILENAME ~ /^docs\/rfc\// {
    document = basename_of(FILENAME)
    sub(/\.tsv$/, "", document)
    take_row(document)
    next
}

FILENAME == "docs/behaviour.md" {
    if (match($0, /^(\| |## )[A-Z]-[0-9]+/)) {
        id = substr($0, RSTART, RLENGTH)
        sub(/^[^A-Z]*/, "", id)
        described["behaviour " id] = 1
        if (!(("behaviour " id) in section)) problem(FILENAME ":" FNR ": docs/rfc/behaviour.tsv has no " id)
    }
    next
}

# `//= ...`, in shell `#= ...`, in C `/* test ... */`.
/^ *(\/\/|#)= / || /^ *\/\* (test )?(REF|RFC) .*\*\/$/ {
    text = $0
    sub(/^ *((\/\/|#)=|\/\*) /, "", text)
    sub(/ *\*\/$/, "", text)
    if (take_citation(text, FILENAME ":" FNR) && is_rust && end_of_test == "") cited = FILENAME ":" FNR
    next
}

is_rust { take_rust() }

function judge(key, target) {
    if (status[key] == "exception") {
        if (key in code && key in tests) problem(key " is an exception, and yet cited by code and test:" code[key] tests[key])
        return 0
    }
    if (status[key] == "same") {
        target = reason[key]
        sub(/^RFC /, "", target)
        sub(/^REF /, "behaviour ", target)
        if (!(target in section) || status[target] == "same") problem(key ": there is no " reason[key])
        return status[target] == "done"
    }
    if (!(key in code)) problem(key " is cited by no code: " words[key])
    if (!(key in tests)) problem(key " is cited by no test: " words[key])
    return 1
}

function tell(document, row, key) {
    for (row = 1; row <= rows[document]; row++) {
        key = order[document, row]
        printf "%s (§%s, %s) %s\n", key, section[key], level[key], words[key]
        if (status[key] != "done") printf "    %s: %s\n", status[key], reason[key]
        if (key in code) printf "    code:%s\n", code[key]
        if (key in tests) printf "    test:%s\n", tests[key]
    }
}

function share(document, wanted) {
    return all[document, wanted] ? met[document, wanted] + 0 " of " all[document, wanted] : "–"
}

END {
    if (show != "") { tell(show); exit }
    for (place = 1; place <= document_count; place++) {
        document = documents[place]
        for (row = 1; row <= rows[document]; row++) {
            key = order[document, row]
            all[document, level[key]]++
            if (judge(key)) met[document, level[key]]++; else exceptions[document]++
            if (document == "behaviour" && !(key in described)) problem("docs/behaviour.md has no " key)
        }
    }
    for (place = 1; place <= problem_count; place++) print "trace: " problems[place] | "cat 1>&2"
    close("cat 1>&2")
    print "| document | MUST | SHOULD | MAY | exceptions |"
    print "|---|---|---|---|---|"
    for (place = 1; place <= document_count; place++) {
        document = documents[place]
        printf "| [%s](docs/rfc/%s.tsv) | %s | %s | %s | %s |\n", titles[document], document, share(document, "MUST"), \
            share(document, "SHOULD"), share(document, "MAY"), exceptions[document] ? exceptions[document] : "–"
    }
    exit problem_count > 0
}
'

join() {
    local -a sources
    mapfile -t sources < <(find stack shim c-tests scripts -name target -prune -o -type f \
        \( -name '*.rs' -o -name '*.c' -o -name '*.h' -o -name '*.pkt' -o -name '*.inc' -o -name '*.sh' \) -print | LC_ALL=C sort)
    LC_ALL=C awk -F '\t' -v show="$1" "$PROGRAM" docs/rfc/*.tsv docs/behaviour.md "${sources[@]}"
}

# The table of README.md, between two marks that a reader does not see.
shown_table() {
    sed -n '/^<!-- trace -->$/,/^<!-- end of trace -->$/p' README.md | sed '1d;$d'
}

write_table() {
    local table="$1" new
    new="$(mktemp)"
    TABLE="$table" LC_ALL=C awk '
        /^<!-- end of trace -->$/ { inside = 0 }
        !inside { print }
        /^<!-- trace -->$/ { inside = 1; print ENVIRON["TABLE"] }
    ' README.md >"$new"
    cat "$new" >README.md
    rm -f "$new"
}

main() {
    local table status=0
    case "${1:-}" in
    --help | -h)
        usage
        return 0
        ;;
    --show)
        if [ ! -f "docs/rfc/${2:-}.tsv" ]; then
            usage >&2
            return 2
        fi
        join "$2"
        return
        ;;
    '' | --write) ;;
    *)
        usage >&2
        return 2
        ;;
    esac
    table="$(join '')" || status=$?
    printf '%s\n' "$table"
    if [ "${1:-}" = --write ]; then
        write_table "$table"
    elif [ "$(shown_table)" != "$table" ]; then
        printf 'trace: the table in README.md is another one; scripts/trace.sh --write puts this one in its place\n' >&2
        status=1
    fi
    return "$status"
}

main "$@"
