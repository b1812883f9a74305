/* The measured side of the benchmark: one mode per case of bench.sh. Runs on the kernel's stack or under the library, and
 * prints figures, a name and a number a line. What answers it is peer.c; what the figures mean is rows.tsv. */
#include "common.h"

#include <dirent.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

/* A datagram may get lost: asked again after this long, and counted. */
#define UDP_PATIENCE_MILLISECONDS 200
/* How often a question over UDP is repeated before the peer counts as gone. */
#define UDP_TRIES 20

static char bulk[BULK_BYTES];

/* --- CPU time ------------------------------------------------------------------------------------------------------ */

struct cpu_time {
    double own;
    double machine;
};

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

/* Softirq work is booked on no process, and the peer's half of the work on another: hence the machine's figure too. */
static struct cpu_time cpu_time(void)
{
    struct cpu_time result;
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        die("getrusage");
    result.own = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
    double user, nice, system, idle, iowait, irq, softirq;
    FILE *file = fopen("/proc/stat", "re");
    if (file == NULL ||
        fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf", &user, &nice, &system, &idle, &iowait, &irq, &softirq) != 7)
        die("/proc/stat");
    fclose(file);
    result.machine = (user + nice + system + irq + softirq) / (double)sysconf(_SC_CLK_TCK);
    return result;
}

static void bulk_figures(uint64_t bytes, uint64_t elapsed, struct cpu_time before)
{
    struct cpu_time after = cpu_time();
    double gigabytes = (double)bytes / 1e9;
    figure("bytes_per_second", (double)bytes * NANOSECONDS / (double)elapsed);
    figure("own_seconds_per_gigabyte", (after.own - before.own) / gigabytes);
    figure("machine_seconds_per_gigabyte", (after.machine - before.machine) / gigabytes);
}

/* --- bulk ---------------------------------------------------------------------------------------------------------- */

/* Ends with the peer's count of what arrived, so that data still in a buffer is never taken for sent. */
static void bulk_send(const struct options *options)
{
    int fd = connected(options, SOCK_STREAM, 0);
    struct cpu_time before = cpu_time();
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), total = 0, arrived;
    do {
        send_all(fd, bulk, sizeof bulk);
        total += sizeof bulk;
    } while (now() < end);
    if (shutdown(fd, SHUT_WR) != 0)
        die("shutdown");
    if (!receive_all(fd, &arrived, sizeof arrived))
        die("the peer closed without its count");
    uint64_t elapsed = now() - start;
    if (arrived != total) {
        errno = 0;
        die("sent %llu bytes, the peer got %llu", (unsigned long long)total, (unsigned long long)arrived);
    }
    bulk_figures(total, elapsed, before);
    close(fd);
}

/* What has been acknowledged when the time is over: what the send buffers hold, and how long it takes to drain, does not
 * count. The connection is reset then. */
static void goodput(const struct options *options)
{
    int fd = connected(options, SOCK_STREAM, 0), unacknowledged = 0;
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), sent = 0, time;
    while ((time = now()) < end) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        if (poll(&ready, 1, (int)((end - time) / 1000000) + 1) < 0)
            die("poll");
        ssize_t count = send(fd, bulk, BULK_BYTES, MSG_DONTWAIT);
        if (count > 0)
            sent += (uint64_t)count;
        else if (errno != EAGAIN)
            die("send");
    }
    if (ioctl(fd, SIOCOUTQ, &unacknowledged) != 0)
        die("SIOCOUTQ");
    figure("bytes_per_second", (double)(sent - (uint64_t)unacknowledged) * NANOSECONDS / (double)(time - start));
    struct linger off = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
    close(fd);
}

static void bulk_receive(const struct options *options)
{
    int fd = connected(options, SOCK_STREAM, 0);
    struct cpu_time before = cpu_time();
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), total = 0, time;
    do {
        ssize_t got = recv(fd, bulk, sizeof bulk, 0);
        if (got <= 0)
            die("recv, after %llu bytes", (unsigned long long)total);
        total += (uint64_t)got;
        time = now();
    } while (time < end);
    bulk_figures(total, time - start, before);
    close(fd);
}

/* --- round trips --------------------------------------------------------------------------------------------------- */

static uint32_t *samples;
static size_t samples_used, samples_room;

static void sample(uint64_t nanoseconds)
{
    if (samples_used == samples_room) {
        samples_room = samples_room == 0 ? 1 << 20 : 2 * samples_room;
        samples = realloc(samples, samples_room * sizeof *samples);
        if (samples == NULL)
            die("memory for samples");
    }
    samples[samples_used++] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

static int ascending(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static double microseconds_at(double part)
{
    return samples[(size_t)((double)(samples_used - 1) * part)] / 1e3;
}

static void round_trip_figures(uint64_t elapsed)
{
    qsort(samples, samples_used, sizeof *samples, ascending);
    figure("p50", microseconds_at(0.50));
    figure("p99", microseconds_at(0.99));
    figure("mean", (double)elapsed / (double)samples_used / 1e3);
    figure("round_trips", (double)samples_used);
}

static void round_trips(const struct options *options)
{
    int fd = connected(options, SOCK_STREAM, 0);
    no_delay(fd);
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), before = start, after;
    do {
        send_all(fd, bulk, options->size);
        if (!receive_all(fd, bulk, options->size))
            die("the peer closed");
        after = now();
        /* What the peer thinks (-w) is not the stack's. */
        sample(after - before > options->pause ? after - before - options->pause : 0);
        before = after;
    } while (after < end);
    round_trip_figures(after - start);
    close(fd);
}

/* --- memory -------------------------------------------------------------------------------------------------------- */

static double pss_bytes(const char *pid)
{
    char path[300], line[256];
    double kibibytes = 0;
    snprintf(path, sizeof path, "/proc/%s/smaps_rollup", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "Pss: %lf", &kibibytes) == 1)
            break;
    fclose(file);
    return kibibytes * 1024;
}

/* Pss of every process in our network namespace: memory that the program shares with a helper process counts once. */
static double user_bytes(void)
{
    struct stat own, other;
    if (stat("/proc/self/ns/net", &own) != 0)
        die("/proc/self/ns/net");
    DIR *directory = opendir("/proc");
    if (directory == NULL)
        die("/proc");
    double total = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        char path[300];
        snprintf(path, sizeof path, "/proc/%s/ns/net", entry->d_name);
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && stat(path, &other) == 0 &&
            other.st_ino == own.st_ino && other.st_dev == own.st_dev)
            total += pss_bytes(entry->d_name);
    }
    closedir(directory);
    return total;
}

/* --- many connections ---------------------------------------------------------------------------------------------- */

/* Each of -n connections asks again as soon as it has its answer. They end with a reset, which leaves no TIME_WAIT. */
static void busy(const struct options *options)
{
    size_t count = options->count, answers = 0;
    raise_file_limit(count + 64);
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct linger off = {.l_onoff = 1};
    size_t *left = calloc(count + 64, sizeof *left);
    int *fds = calloc(count, sizeof *fds);
    if (set < 0 || left == NULL || fds == NULL)
        die("epoll");
    memset(left, 1, (count + 64) * sizeof *left);
    memset(fds, 1, count * sizeof *fds);
    close(connected(options, SOCK_STREAM, 0));
    double memory = user_bytes() + slab_bytes();
    for (size_t i = 0; i < count; i++) {
        fds[i] = connected(options, SOCK_STREAM, 0);
        no_delay(fds[i]);
        setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &off, sizeof off);
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = i};
        if (epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &event) != 0)
            die("epoll_ctl");
    }
    struct cpu_time before = cpu_time();
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), time = start;
    for (size_t i = 0; i < count; i++) {
        left[i] = options->size;
        send_all(fds[i], bulk, options->size);
    }
    while (time < end) {
        struct epoll_event events[256];
        int ready = epoll_wait(set, events, 256, 1000);
        if (ready == 0)
            die("no answer for a second, after %zu", answers);
        for (int i = 0; i < ready; i++) {
            size_t which = events[i].data.u64;
            ssize_t got = recv(fds[which], bulk, left[which], MSG_DONTWAIT);
            if (got <= 0)
                die("recv");
            left[which] -= (size_t)got;
            if (left[which] > 0)
                continue;
            answers++;
            left[which] = options->size;
            send_all(fds[which], bulk, options->size);
        }
        time = now();
    }
    struct cpu_time after = cpu_time();
    figure("bytes_per_connection", (user_bytes() + slab_bytes() - memory) / (double)count);
    figure("answers_per_second", (double)answers * NANOSECONDS / (double)(time - start));
    figure("own_microseconds", (after.own - before.own) * 1e6 / (double)answers);
    figure("machine_microseconds", (after.machine - before.machine) * 1e6 / (double)answers);
}

static void patience(int fd)
{
    struct timeval wait = {.tv_usec = UDP_PATIENCE_MILLISECONDS * 1000};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0)
        die("SO_RCVTIMEO");
}

static bool timed_out(ssize_t got)
{
    if (got >= 0)
        return false;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        die("recv");
    return true;
}

static void udp_round_trips(const struct options *options)
{
    int fd = connected(options, SOCK_DGRAM, 0);
    patience(fd);
    size_t lost = 0;
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), before = start, after;
    do {
        if (send(fd, bulk, options->size, 0) != (ssize_t)options->size)
            die("send");
        if (timed_out(recv(fd, bulk, sizeof bulk, 0)))
            lost++;
        after = now();
        sample(after - before);
        before = after;
        if (lost > UDP_TRIES)
            die("%zu answers are missing", lost);
    } while (after < end);
    round_trip_figures(after - start);
    figure("lost", (double)lost);
    close(fd);
}

/* --- UDP packets --------------------------------------------------------------------------------------------------- */

static void udp_send(const struct options *options)
{
    int fd = connected(options, SOCK_DGRAM, 0);
    patience(fd);
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), sent = 0, refused = 0, arrived;
    bulk[0] = DATAGRAM_DATA;
    do {
        /* The clock is read every 64th time only, so that the row measures sends. */
        for (int i = 0; i < 64; i++) {
            if (send(fd, bulk, DATAGRAM_BYTES, 0) == DATAGRAM_BYTES)
                sent++;
            else if (errno == EAGAIN || errno == ENOBUFS)
                refused++;
            else
                die("send, after %llu datagrams", (unsigned long long)sent);
        }
    } while (now() < end);
    double elapsed = (double)(now() - start) / NANOSECONDS;
    bulk[0] = DATAGRAM_END;
    for (int try = 0;; try++) {
        if (try == UDP_TRIES)
            die("the peer does not tell its count");
        if (send(fd, bulk, 1, 0) != 1 && errno != EAGAIN && errno != ENOBUFS)
            die("send");
        ssize_t got = recv(fd, &arrived, sizeof arrived, 0);
        if (!timed_out(got) && got == sizeof arrived)
            break;
    }
    figure("sent_per_second", (double)sent / elapsed);
    figure("arrived_per_second", (double)arrived / elapsed);
    figure("refused", (double)refused);
    close(fd);
}

static void udp_receive(const struct options *options)
{
    int fd = connected(options, SOCK_DGRAM, 0);
    patience(fd);
    char datagram[DATAGRAM_BYTES];
    uint64_t start = 0, last = 0, arrived = 0;
    for (int silent = 0;;) {
        if (arrived == 0 && send(fd, bulk, 1, 0) != 1)
            die("send");
        ssize_t got = recv(fd, datagram, sizeof datagram, 0);
        if (timed_out(got)) {
            /* The end marks may all be lost in a full queue: silence after data is the end as well. */
            if (arrived > 0)
                break;
            if (++silent == UDP_TRIES)
                die("the peer does not send");
            continue;
        }
        if (got > 0 && datagram[0] == DATAGRAM_END)
            break;
        if (arrived++ == 0)
            start = now();
        if (arrived % 64 == 0)
            last = now();
    }
    if (arrived < 128)
        die("only %llu datagrams arrived", (unsigned long long)arrived);
    /* From the first to the last that the clock was read at. */
    figure("arrived_per_second", (double)(arrived - arrived % 64 - 1) * NANOSECONDS / (double)(last - start));
    close(fd);
}

static void client(const struct options *options)
{
    connect_many(options);
}

/* --- idle connections ---------------------------------------------------------------------------------------------- */

/* The slab is the machine's: the peer's half is taken off by what the peer found one end to cost. The first connection
 * is outside the measurement, and with it what a stack needs once. */
static void idle(const struct options *options)
{
    raise_file_limit(options->count + 64);
    int *fds = calloc(options->count, sizeof *fds);
    if (fds == NULL)
        die("memory");
    memset(fds, 1, options->count * sizeof *fds);
    double peer_bytes, ignored;
    int first = connected(options, SOCK_STREAM, 0);
    if (!receive_all(first, &peer_bytes, sizeof peer_bytes))
        die("the peer closed");
    user_bytes();
    double user_before = user_bytes(), slab_before = slab_bytes();
    for (size_t i = 0; i < options->count; i++) {
        fds[i] = connected(options, SOCK_STREAM, 0);
        if (!receive_all(fds[i], &ignored, sizeof ignored))
            die("the peer closed");
    }
    double count = (double)options->count;
    double slab = (slab_bytes() - slab_before) / count - peer_bytes;
    double user = (user_bytes() - user_before) / count;
    figure("bytes_per_connection", user + slab);
    figure("user_bytes", user);
    figure("slab_bytes", slab);
    figure("peer_slab_bytes", peer_bytes);
}

/* ------------------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    static const struct {
        const char *mode;
        void (*run)(const struct options *);
    } modes[] = {
        {"send", bulk_send},        {"receive", bulk_receive}, {"roundtrip", round_trips},
        {"connect", client},        {"accept", accept_many},   {"udp-roundtrip", udp_round_trips},
        {"udp-send", udp_send},     {"udp-receive", udp_receive},
        {"idle", idle},            {"goodput", goodput},       {"busy", busy},
    };
    struct options options;
    parse(argc, argv, &options);
    memset(bulk, 'b', sizeof bulk);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(modes[i].mode, options.mode) == 0) {
            modes[i].run(&options);
            return fflush(stdout) == 0 ? 0 : 1;
        }
    }
    fprintf(stderr, "no mode %s\n", options.mode);
    return 2;
}
