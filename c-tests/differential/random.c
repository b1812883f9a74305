/* The random mode of the differential harness: which sequences are drawn, and how often every call has met a socket in
 * every state. A call counts for the state when nothing before it in the sequence has led out of that state: what came
 * before either only asks or sets, or was refused, and the poll mask is that of the state still. Running and judging are
 * left to main.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"

enum { MOST_CALLS = 4096, LONGEST = 32, WANTED = 100 };

static unsigned (*cells)[MOST_CALLS];
/* Cells whose call led out of the state when it was met last: a sequence can count one of them, so that is drawn with
 * care, and put behind those that lead nowhere. */
static bool (*leaves)[MOST_CALLS];
/* Sum of a state's cells. */
static unsigned long *totals;
/* Sequences, those that differ, those that differed in haste only. */
static unsigned long *tally;

enum { TALLIES = 3 };

/* The counts lie in the file CELLS, which several runs at once share, so that each draws what all of them lack. */
static void make_cells(void)
{
    if (cells != NULL)
        return;
    const char *path = getenv("CELLS");
    size_t counts = state_count * sizeof *cells, flags = state_count * sizeof *leaves;
    size_t sums = state_count * sizeof *totals, all = counts + flags + sums + TALLIES * sizeof *tally;
    int fd = path != NULL ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (path != NULL && (fd < 0 || ftruncate(fd, (off_t)all) != 0)) {
        fprintf(stderr, "differential: %s: %s\n", path, strerror(errno));
        exit(2);
    }
    char *place = mmap(NULL, all, PROT_READ | PROT_WRITE, fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (place == MAP_FAILED) {
        perror("differential: mmap");
        exit(2);
    }
    if (fd >= 0)
        close(fd);
    cells = (void *)place;
    leaves = (void *)(place + counts);
    totals = (void *)(place + counts + flags);
    tally = (void *)(place + counts + flags + sums);
}

/* Options have a cell for reading and one for setting, whatever value; other calls have one for each of their arguments. */
static size_t cell_of(const char *kind, size_t call)
{
    size_t plain = plain_call_count(kind);
    if (call < plain)
        return call;
    size_t option = (call - plain) / CALLS_PER_OPTION, sets = (call - plain) % CALLS_PER_OPTION >= GETS_PER_OPTION;
    return plain + option * 2 + sets;
}

static size_t cell_count(const char *kind)
{
    return cell_of(kind, call_count(kind) - 1) + 1;
}

void count_cell(size_t state, size_t call)
{
    make_cells();
    if (call >= MOST_CALLS)
        return;
    __atomic_fetch_add(&cells[state][cell_of(states[state].kind, call)], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&totals[state], 1, __ATOMIC_RELAXED);
}

/* ---- drawing ---- */

/* xorshift64*: the same seed gives the same numbers everywhere. */
static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (random_state * 2685821657736338717u >> 16) % below;
}

/* Of a few at random the one that has been met least. */
static size_t draw_call(size_t state, int tries)
{
    size_t count = call_count(states[state].kind), best = draw(count);
    while (--tries > 0) {
        size_t other = draw(count);
        if (cells[state][cell_of(states[state].kind, other)] < cells[state][cell_of(states[state].kind, best)])
            best = other;
    }
    return best;
}

static double share(size_t state)
{
    return (double)totals[state] / (double)cell_count(states[state].kind);
}

/* One of the states of the kind that was asked for (KIND), or of any. */
static size_t any_state(void)
{
    const char *kind = getenv("KIND");
    size_t state = draw(state_count);
    for (int tries = 0; tries < 1000 && kind != NULL && strcmp(kind, states[state].kind) != 0; tries++)
        state = draw(state_count);
    return state;
}

static size_t draw_state(void)
{
    size_t best = any_state();
    for (int tries = 0; tries < 3; tries++) {
        size_t other = any_state();
        if (share(other) < share(best))
            best = other;
    }
    return best;
}

/* ---- what leads out of a state ---- */

static bool starts(const char *text, const char *word)
{
    size_t length = strlen(word);
    return strncmp(text, word, length) == 0 && (text[length] == ' ' || text[length] == 0);
}

/* Calls that leave the state alone whatever they answer; SO_ERROR takes the error. */
static bool only_asks(const char *call)
{
    static const char *const words[] = {"getsockname", "getpeername", "setsockopt", "ioctl",  "fcntl",  "fstat", "lseek",
                                        "ftruncate",   "fsync",       "pread",      "pwrite", "isatty", "select", "wait",
                                        "poll",        "pselect",     "epoll",      "dup",    "dup2",   "dup3",   "mmap",
                                        "flock",       "fallocate",   "fdatasync",  "fchdir", "openat", "tee",    "vmsplice",
                                        "readahead",   "fadvise",     "fstatfs",    "sockatmark", "copy_file_range",
                                        "sendfile-from"};
    if (strncmp(call, "getsockopt ", 11) == 0)
        return strncmp(call, "getsockopt 1 4 ", 15) != 0;
    /* TCP_REPAIR and TCP_QUEUE_SEQ write states by hand. */
    if (strncmp(call, "setsockopt 6 19 ", 16) == 0 || strncmp(call, "setsockopt 6 21 ", 16) == 0)
        return false;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (starts(call, words[i]))
            return true;
    return false;
}

/* Refusals for the arguments' or the state's sake, which take nothing away. */
static bool was_refused(const char *answer)
{
    static const char *const errors[] = {"EINVAL",  "EFAULT",       "EAGAIN",       "EOPNOTSUPP",    "EMSGSIZE", "ENOTCONN",
                                         "EISCONN", "EAFNOSUPPORT", "EDESTADDRREQ", "EADDRNOTAVAIL", "EACCES",   "EALREADY",
                                         "EPIPE",   "EBADF",        "EPERM",        "ENOTSOCK",      "ENOTTY",   "ESPIPE"};
    if (strncmp(answer, "-1 ", 3) != 0)
        return false;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (starts(answer + 3, errors[i]))
            return true;
    return false;
}

/* The word after "mask", with its line's end. */
static size_t mask_of(const char *line, size_t length, char mask[24])
{
    static const char word[] = " mask ";
    for (size_t at = length; at >= sizeof word; at--)
        if (memcmp(line + at - sizeof word + 1, word, sizeof word - 1) == 0) {
            size_t size = length - at < 23 ? length - at : 23;
            memcpy(mask, line + at, size);
            mask[size] = 0;
            return size;
        }
    mask[0] = 0;
    return 0;
}

/* ---- one batch ---- */

static char batch[BATCH][SEQUENCE_SIZE];
static struct {
    size_t state, count;
    size_t calls[LONGEST];
} drawn[BATCH];

/* The calls that leave the state alone come first, the others keep their order. */
static void put_departures_last(size_t state, size_t *calls, size_t count)
{
    size_t last[LONGEST], departing = 0, used = 0;
    const char *kind = states[state].kind;
    for (size_t i = 0; i < count; i++)
        if (cells[state][cell_of(kind, calls[i])] > 0 ? leaves[state][cell_of(kind, calls[i])] : !only_asks(call_text(kind, calls[i])))
            last[departing++] = calls[i];
        else
            calls[used++] = calls[i];
    memcpy(calls + used, last, departing * sizeof *calls);
}

static void draw_sequence(size_t index)
{
    size_t state = draw_state();
    const char *kind = states[state].kind;
    drawn[index].state = state;
    drawn[index].count = 1 + draw(LONGEST);
    for (size_t i = 0; i < drawn[index].count; i++)
        drawn[index].calls[i] = draw_call(state, i == 0 ? 64 : 4);
    /* In two sequences of three what leads out of the state comes last. */
    if (draw(3) != 0)
        put_departures_last(state, drawn[index].calls, drawn[index].count);
    size_t used = (size_t)snprintf(batch[index], SEQUENCE_SIZE, "%s", states[state].prefix);
    for (size_t i = 0; i < drawn[index].count; i++)
        used += (size_t)snprintf(batch[index] + used, SEQUENCE_SIZE - used, ";%s", call_text(kind, drawn[index].calls[i]));
}

/* Counts the cells that the sequence has met, by the kernel's transcript. */
static void seen(size_t index)
{
    const char *line = kernel.transcript;
    size_t prefix = 1;
    char mask[24] = "", now[24];
    for (const char *c = states[drawn[index].state].prefix; *c != 0; c++)
        prefix += *c == ';';
    for (size_t number = 0; number < prefix + drawn[index].count && *line != 0; number++) {
        size_t length = strcspn(line, "\n");
        const char *arrow = strstr(line, " => ");
        if (number + 1 == prefix)
            mask_of(line, length, mask);
        if (number >= prefix) {
            count_cell(drawn[index].state, drawn[index].calls[number - prefix]);
            mask_of(line, length, now);
            bool quiet = arrow != NULL && (only_asks(line) || was_refused(arrow + 4)) && strcmp(mask, now) == 0;
            leaves[drawn[index].state][cell_of(states[drawn[index].state].kind, drawn[index].calls[number - prefix])] = !quiet;
            if (!quiet)
                return;
        }
        line += length + (line[length] != 0);
    }
}

void at_random(unsigned long sequences, unsigned long long seed)
{
    make_cells();
    random_state = seed * 0x9e3779b97f4a7c15u | 1;
    draw(2);
    time_t end = getenv("SECONDS_AT_MOST") != NULL ? time(NULL) + atol(getenv("SECONDS_AT_MOST")) : 0;
    while (sequences > 0 && (end == 0 || time(NULL) < end)) {
        size_t count = sequences < BATCH ? sequences : BATCH;
        for (size_t i = 0; i < count; i++)
            draw_sequence(i);
        run_batch(batch, count, true, seen);
        sequences -= count;
    }
}

/* ---- counts ---- */

void add_to_tally(unsigned long sequences, unsigned long differ, unsigned long haste)
{
    make_cells();
    __atomic_fetch_add(&tally[0], sequences, __ATOMIC_RELAXED);
    __atomic_fetch_add(&tally[1], differ, __ATOMIC_RELAXED);
    __atomic_fetch_add(&tally[2], haste, __ATOMIC_RELAXED);
}

void print_cells(void)
{
    size_t all = 0, enough = 0;
    make_cells();
    for (size_t state = 0; state < state_count; state++) {
        unsigned least = -1u;
        size_t count = cell_count(states[state].kind);
        if (totals[state] == 0)
            continue;
        for (size_t call = 0; call < count; call++) {
            all++;
            enough += cells[state][call] >= WANTED;
            if (cells[state][call] < least)
                least = cells[state][call];
        }
        printf("# %-5s %-24s %5zu cells, %8lu times, the rarest %u\n", states[state].kind, states[state].name, count,
               totals[state], least);
    }
    if (all > 0)
        printf("# %zu cells, %zu of them met at least %d times\n", all, enough, WANTED);
    printf("# %lu sequences, %lu differ, %lu differed in haste only\n", tally[0], tally[1], tally[2]);
}
