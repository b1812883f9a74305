/* The driver of the differential harness: starts an executor and a peer on each side, gives both executors the same
 * sequences, compares the transcripts line by line, repeats what differs with pauses, cuts it down to the shortest
 * sequence that still differs, and forgives what exceptions.txt names.
 *
 *   differential table [KIND]             every call of the catalogue in every state, options by number in some
 *   differential calls [KIND [SAMPLE SEED]]   the same without the options by number; each SAMPLE-th only
 *   differential random SEQUENCES SEED    sequences of calls at random
 *   differential list FILE                the sequences of a file
 *   differential one "SEQUENCE"           both transcripts of one sequence
 *   differential cells                    the counts per state in the file CELLS
 *
 * The sides come from the environment: KERNEL_OURS and KERNEL_PEER, REMORA_OURS and REMORA_PEER name network namespaces,
 * REMORA_LIB is the library. The calls themselves are left to execute.c and operations.c, the tables to
 * catalogue.c, what is drawn at random to random.c. */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"

enum { MOST_FINDINGS = 4096, PATIENCE_MS = 15000, MOST_EXCEPTIONS = 256 };

/* ---- sides ---- */

struct side kernel = {.name = "KERNEL", .preload = false, .fd = -1};
struct side remora = {.name = "REMORA", .preload = true, .fd = -1};
static const char *program;

static void enter(const char *side, const char *place)
{
    char path[256];
    snprintf(path, sizeof path, "%s_%s", side, place);
    const char *namespace = getenv(path);
    if (namespace == NULL) {
        fprintf(stderr, "differential: %s is not set\n", path);
        _exit(2);
    }
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) {
        fprintf(stderr, "differential: %s: %s\n", path, strerror(errno));
        _exit(2);
    }
    close(fd);
}

static pid_t start_part(const struct side *side, const char *role, int driver, int peer)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    enter(side->name, strcmp(role, "peer") == 0 ? "PEER" : "OURS");
    /* Above the numbers of the sockets under test; the copies are not close-on-exec. */
    if (driver >= 0)
        dup2(driver, FD_DRIVER);
    dup2(peer, FD_PEER);
    if (side->preload && strcmp(role, "execute") == 0)
        setenv("LD_PRELOAD", getenv("REMORA_LIB"), 1);
    execl(program, program, role, (char *)NULL);
    _exit(127);
}

static void start_side(struct side *side)
{
    int driver[2], peer[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, driver) != 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, peer) != 0) {
        perror("differential: socketpair");
        exit(2);
    }
    side->peer = start_part(side, "peer", -1, peer[1]);
    side->executor = start_part(side, "execute", driver[1], peer[0]);
    close(driver[1]);
    close(peer[0]);
    close(peer[1]);
    side->fd = driver[0];
}

void stop_side(struct side *side)
{
    if (side->fd < 0)
        return;
    close(side->fd);
    side->fd = -1;
    kill(side->executor, SIGKILL);
    kill(side->peer, SIGKILL);
    waitpid(side->executor, NULL, 0);
    waitpid(side->peer, NULL, 0);
}

static void give(struct side *side, const char *message)
{
    if (side->fd < 0)
        start_side(side);
    if (send(side->fd, message, strlen(message), MSG_NOSIGNAL) < 0)
        fprintf(stderr, "differential: %s: send: %s\n", side->name, strerror(errno));
}

static void take(struct side *side)
{
    struct pollfd entry = {side->fd, POLLIN, 0};
    ssize_t length = poll(&entry, 1, PATIENCE_MS) == 1 ? recv(side->fd, side->transcript, TRANSCRIPT_SIZE - 1, 0) : -2;
    if (length > 0) {
        side->transcript[length] = 0;
        return;
    }
    int status = 0;
    if (length != -2)
        waitpid(side->executor, &status, WNOHANG);
    snprintf(side->transcript, TRANSCRIPT_SIZE, "the executor %s (status %x)\n", length == -2 ? "hangs" : "ended", status);
    stop_side(side);
}

static unsigned long runs;

static void give_both(const char *sequence, bool slow)
{
    char message[SEQUENCE_SIZE + 32];
    int port = PORT_FIRST + (int)(runs++ % PORT_COUNT);
    snprintf(message, sizeof message, "%d;%s%s", port, slow ? "slow;" : "", sequence);
    give(&kernel, message);
    give(&remora, message);
}

/* Gives the sequence to both sides; true when the transcripts are equal. */
static bool run(const char *sequence, bool slow)
{
    give_both(sequence, slow);
    take(&kernel);
    take(&remora);
    return strcmp(kernel.transcript, remora.transcript) == 0;
}

/* Many sequences at once, so that neither side waits for the other or for the driver. What differs is judged alone,
 * when all the others have been taken. */
void run_batch(char (*sequences)[SEQUENCE_SIZE], size_t count, bool cut, void (*seen)(size_t index))
{
    bool differs[BATCH] = {false};
    for (size_t i = 0; i < count; i++)
        give_both(sequences[i], false);
    for (size_t i = 0; i < count; i++) {
        bool whole = kernel.fd >= 0 && remora.fd >= 0;
        if (whole) {
            take(&kernel);
            take(&remora);
        }
        /* Once a side has ended, what it still had to answer is asked again. */
        differs[i] = !whole || strcmp(kernel.transcript, remora.transcript) != 0;
        if (whole)
            seen(i);
        if (!differs[i])
            sequences_run++;
    }
    if (kernel.fd < 0 || remora.fd < 0) {
        stop_side(&kernel);
        stop_side(&remora);
    }
    for (size_t i = 0; i < count; i++)
        if (differs[i])
            judge(sequences[i], cut);
}

/* ---- exceptions ---- */

struct exception {
    char before[128], sequence[256], theirs[256], ours[256];
    unsigned long used;
};

static struct exception exceptions[MOST_EXCEPTIONS];
static size_t exception_count;

static char *trim(char *text)
{
    while (*text == ' ')
        text++;
    for (size_t length = strlen(text); length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\n');)
        text[--length] = 0;
    return text;
}

/* A line is: pattern of the operation | pattern of the kernel's answer | pattern of remora's answer | reason
 * The first may be two: pattern of what is in the sequence >> pattern of the operation. */
static void read_exceptions(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[1024];
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL && exception_count < MOST_EXCEPTIONS) {
        char *parts[4] = {0}, *rest = line;
        if (line[0] == '#' || line[0] == '\n')
            continue;
        for (int i = 0; i < 4 && rest != NULL; i++)
            parts[i] = strsep(&rest, "|");
        if (parts[3] == NULL || *trim(parts[3]) == 0) {
            fprintf(stderr, "differential: an exception without a reason: %s\n", line);
            exit(2);
        }
        struct exception *exception = &exceptions[exception_count++];
        char *arrow = strstr(parts[0], ">>");
        if (arrow != NULL) {
            *arrow = 0;
            snprintf(exception->before, sizeof exception->before, "*%s*", trim(parts[0]));
            parts[0] = arrow + 2;
        }
        snprintf(exception->sequence, sizeof exception->sequence, "%s", trim(parts[0]));
        snprintf(exception->theirs, sizeof exception->theirs, "%s", trim(parts[1]));
        snprintf(exception->ours, sizeof exception->ours, "%s", trim(parts[2]));
    }
    fclose(file);
}

/* The first line on which the transcripts differ, cut at "=>". */
struct difference {
    char operation[512], theirs[2048], ours[2048];
};

static void split_line(const char *line, char *operation, size_t room, char *answer, size_t answer_room)
{
    size_t length = strcspn(line, "\n");
    const char *arrow = strstr(line, " => ");
    const char *start = arrow != NULL && arrow < line + length ? arrow + 4 : line;
    if (operation != NULL)
        snprintf(operation, room, "%.*s", start == line ? 0 : (int)(arrow - line), line);
    snprintf(answer, answer_room, "%.*s", (int)(line + length - start), start);
}

static void first_difference(struct difference *difference)
{
    const char *theirs = kernel.transcript, *ours = remora.transcript;
    for (;;) {
        size_t a = strcspn(theirs, "\n"), b = strcspn(ours, "\n");
        if (a != b || memcmp(theirs, ours, a) != 0 || theirs[a] == 0 || ours[b] == 0)
            break;
        theirs += a + 1;
        ours += b + 1;
    }
    split_line(theirs, difference->operation, sizeof difference->operation, difference->theirs, sizeof difference->theirs);
    split_line(ours, NULL, 0, difference->ours, sizeof difference->ours);
}

static bool forgiven(const char *sequence, const struct difference *difference)
{
    for (size_t i = 0; i < exception_count; i++)
        if ((exceptions[i].before[0] == 0 || fnmatch(exceptions[i].before, sequence, 0) == 0) &&
            fnmatch(exceptions[i].sequence, difference->operation, 0) == 0 &&
            fnmatch(exceptions[i].theirs, difference->theirs, 0) == 0 &&
            fnmatch(exceptions[i].ours, difference->ours, 0) == 0) {
            exceptions[i].used++;
            return true;
        }
    return false;
}

/* ---- judging ---- */

unsigned long sequences_run, differing;
static unsigned long flaky;

/* Differences that have been reported: the same one again is counted, not examined. */
static struct {
    uint64_t key;
    unsigned long times;
} findings[MOST_FINDINGS];
static size_t finding_count;

static uint64_t add_text(uint64_t key, const char *text)
{
    for (; *text != 0; text++)
        key = (key ^ (unsigned char)*text) * 1099511628211u;
    return (key ^ 0xff) * 1099511628211u;
}

static uint64_t key_of(const struct difference *difference)
{
    return add_text(add_text(add_text(14695981039346656037u, difference->operation), difference->theirs), difference->ours);
}

static bool is_known(const struct difference *difference)
{
    uint64_t key = key_of(difference);
    for (size_t i = 0; i < finding_count; i++)
        if (findings[i].key == key) {
            findings[i].times++;
            return true;
        }
    return false;
}

/* What differs in haste must differ with pauses too: time is not what is compared. */
static bool really_differs(const char *sequence, struct difference *difference)
{
    if (run(sequence, false))
        return false;
    first_difference(difference);
    if (forgiven(sequence, difference))
        return false;
    bool equal = false;
    for (int tries = 0; tries < 2 && !equal; tries++)
        equal = run(sequence, false);
    if (equal || run(sequence, true)) {
        flaky++;
        if (getenv("SHOW_HASTE") != NULL)
            printf("in haste: %s\n    kernel: %s\n    remora: %s\n", sequence, difference->theirs, difference->ours);
        return false;
    }
    first_difference(difference);
    return !forgiven(sequence, difference);
}

/* The sequence without COUNT operations from the one numbered FIRST on; false when there are none to take away. */
static bool without(const char *sequence, int first, int count, char *shorter)
{
    char copy[SEQUENCE_SIZE], *rest = copy, *part;
    bool skipped = false;
    snprintf(copy, sizeof copy, "%s", sequence);
    shorter[0] = 0;
    for (int index = 0; (part = strsep(&rest, ";")) != NULL; index++) {
        if (index >= first && index - first < count) {
            skipped = true;
            continue;
        }
        if (shorter[0] != 0)
            strcat(shorter, ";");
        strcat(shorter, part);
    }
    return skipped;
}

/* How many operations come before the first that differs. */
static int place_of_difference(void)
{
    int place = 0;
    const char *theirs = kernel.transcript, *ours = remora.transcript;
    for (; *theirs != 0 && *theirs == *ours; theirs++, ours++)
        place += *theirs == '\n';
    return place;
}

/* Takes away what comes after the difference, then halves, quarters and single operations for as long as the rest
 * differs. */
static void shrink(char *sequence)
{
    char best[SEQUENCE_SIZE], trial[SEQUENCE_SIZE];
    struct difference difference;
    snprintf(best, sizeof best, "%s", sequence);
    if (without(best, place_of_difference() + 1, MOST_OPERATIONS, trial) && really_differs(trial, &difference))
        snprintf(best, sizeof best, "%s", trial);
    for (int size = MOST_OPERATIONS / 2; size >= 1; size /= 2)
        for (bool shorter = true; shorter;) {
            shorter = false;
            for (int first = MOST_OPERATIONS; first >= 1; first -= size)
                if (without(best, first, size, trial) && really_differs(trial, &difference)) {
                    snprintf(best, sizeof best, "%s", trial);
                    shorter = size == 1;
                }
        }
    strcpy(sequence, best);
}

static void report(const char *sequence, const struct difference *difference)
{
    if (finding_count < MOST_FINDINGS)
        findings[finding_count++].key = key_of(difference);
    printf("differs: %s\n    at:     %s\n    kernel: %s\n    remora: %s\n", sequence, difference->operation,
           difference->theirs, difference->ours);
    fflush(stdout);
}

void judge(const char *sequence, bool cut)
{
    struct difference difference;
    char shortest[SEQUENCE_SIZE];
    sequences_run++;
    if (run(sequence, false))
        return;
    first_difference(&difference);
    if (forgiven(sequence, &difference))
        return;
    if (is_known(&difference)) {
        differing++;
        return;
    }
    if (!really_differs(sequence, &difference))
        return;
    differing++;
    if (is_known(&difference))
        return;
    snprintf(shortest, sizeof shortest, "%s", sequence);
    if (cut) {
        shrink(shortest);
        if (!really_differs(shortest, &difference) || is_known(&difference))
            return;
    }
    report(shortest, &difference);
}

/* ---- modes ---- */

static void seen_in_table(size_t index)
{
    (void)index;
}

/* One batch of a table: sequences that were drawn, and run together. */
static char gathered[BATCH][SEQUENCE_SIZE];
static size_t gathered_count;

static void flush_table(void)
{
    run_batch(gathered, gathered_count, false, seen_in_table);
    gathered_count = 0;
}

/* Of the calls in every state each SAMPLE-th, from a different one on in each state; all with 1. */
static void table(const char *kind, bool options, size_t sample, size_t seed)
{
    for (size_t state = 0; state < state_count; state++) {
        if (kind != NULL && strcmp(kind, states[state].kind) != 0)
            continue;
        /* A state that is not reached on both sides alike would show in each of its sequences. */
        unsigned long before = differing;
        judge(states[state].prefix, false);
        if (differing > before)
            continue;
        size_t last = options && states[state].options ? call_count(states[state].kind) : plain_call_count(states[state].kind);
        for (size_t call = (seed + state) % sample; call < last; call += sample) {
            snprintf(gathered[gathered_count++], SEQUENCE_SIZE, "%s;%s", states[state].prefix,
                     call_text(states[state].kind, call));
            count_cell(state, call);
            if (gathered_count == BATCH)
                flush_table();
        }
        flush_table();
    }
}

/* The sequences of a file, one a line. */
static bool list(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    while (fgets(gathered[gathered_count], SEQUENCE_SIZE, file) != NULL) {
        char *line = gathered[gathered_count];
        line[strcspn(line, "\n")] = 0;
        if (line[0] == '#' || line[0] == 0)
            continue;
        if (++gathered_count == BATCH)
            flush_table();
    }
    flush_table();
    fclose(file);
    return true;
}

static void print_counts(void)
{
    add_to_tally(sequences_run, differing, flaky);
    /* Of runs that share their counts, they are printed when all have ended. */
    if (getenv("CELLS") == NULL)
        print_cells();
    for (size_t i = 0; i < exception_count; i++)
        if (exceptions[i].used > 0)
            printf("# exception \"%s\": %lu\n", exceptions[i].sequence, exceptions[i].used);
    printf("# this run: %lu sequences, %lu differ in %zu ways, %lu differed in haste only\n", sequences_run, differing,
           finding_count, flaky);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "peer") == 0)
        return peer_main();
    if (strcmp(mode, "execute") == 0)
        return execute_main();
    if (strcmp(mode, "cells") == 0) {
        print_cells();
        return 0;
    }
    program = "/proc/self/exe";
    signal(SIGPIPE, SIG_IGN);
    if (getenv("EXCEPTIONS") != NULL)
        read_exceptions(getenv("EXCEPTIONS"));
    /* The first packets of a stack are for its address and its neighbour's: not what is compared. */
    for (int tries = 0; tries < 20 && !run("socket tcp;connect peerL 16;wait 4", true); tries++) {
    }
    if (strcmp(mode, "table") == 0) {
        table(argc > 2 ? argv[2] : NULL, true, 1, 0);
    } else if (strcmp(mode, "calls") == 0) {
        size_t sample = argc > 3 ? strtoul(argv[3], NULL, 0) : 1;
        table(argc > 2 && argv[2][0] != 0 ? argv[2] : NULL, false, sample > 0 ? sample : 1, argc > 4 ? strtoul(argv[4], NULL, 0) : 0);
    } else if (strcmp(mode, "random") == 0 && argc == 4) {
        at_random(strtoul(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
    } else if (strcmp(mode, "list") == 0 && argc == 3) {
        if (!list(argv[2])) {
            fprintf(stderr, "differential: %s: %s\n", argv[2], strerror(errno));
            return 2;
        }
    } else if (strcmp(mode, "one") == 0 && argc == 3) {
        run(argv[2], true);
        printf("kernel:\n%sremora:\n%s", kernel.transcript, remora.transcript);
    } else {
        fprintf(stderr, "usage: differential table [KIND] | calls [KIND [SAMPLE SEED]] | random SEQUENCES SEED | list FILE | one SEQUENCE | cells\n");
        return 2;
    }
    stop_side(&kernel);
    stop_side(&remora);
    print_counts();
    return differing > 0;
}
