/* Ten thousand idle connections and a thousand busy ones in one process: many PORT IDLE BUSY SECONDS. Every busy one asks
 * the peer's echo service (witness) again and again, and its bytes are checked; the idle ones are checked at the end.
 * Prints answers per second first with the busy ones alone, then beside the idle ones, and the memory of both. */
#include "../t.h"
#include <sys/epoll.h>
#include <sys/resource.h>

enum { PIECE = 512 };

static struct stream {
    int fd;
    uint64_t asked, got;
} *streams;
static int set;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

__attribute__((noreturn)) static void fail(const char *what)
{
    printf("FAILED: %s (%s)\n", what, strerrorname_np(errno));
    exit(1);
}

static void ask(struct stream *stream)
{
    unsigned char buffer[PIECE];
    pattern_fill(buffer, sizeof buffer, stream->asked);
    if (send(stream->fd, buffer, sizeof buffer, MSG_NOSIGNAL) != sizeof buffer)
        fail("send");
    stream->asked += sizeof buffer;
}

/* Takes what has come; says whether the answer is complete. */
static bool take(struct stream *stream)
{
    unsigned char buffer[PIECE];
    ssize_t got = recv(stream->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got <= 0)
        fail("recv");
    if (pattern_match(buffer, (size_t)got, stream->got) != (size_t)got)
        fail("wrong data");
    stream->got += (uint64_t)got;
    return stream->got == stream->asked;
}

static void begin(int port, int first, int count)
{
    for (int i = first; i < first + count; i++) {
        streams[i].fd = peer_connect(port);
        if (streams[i].fd < 0)
            fail("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &streams[i]};
        if (epoll_ctl(set, EPOLL_CTL_ADD, streams[i].fd, &event) != 0)
            fail("epoll_ctl");
    }
}

/* The busy ones exchange for so long, or all of `first` to `first + count` once. */
static double exchange(int first, int count, double seconds)
{
    long answers = 0;
    double start = now(), end = start + seconds;
    int open = count;
    for (int i = first; i < first + count; i++)
        ask(&streams[i]);
    while (open > 0) {
        struct epoll_event events[256];
        int ready = epoll_wait(set, events, 256, 10000);
        if (ready <= 0)
            fail("nothing comes for 10 s");
        bool again = now() < end;
        for (int i = 0; i < ready; i++) {
            struct stream *stream = events[i].data.ptr;
            if (!take(stream))
                continue;
            answers++;
            if (again)
                ask(stream);
            else
                open--;
        }
    }
    return (double)answers / (now() - start);
}

static void memory(const char *when)
{
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    printf("%s:", when);
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "VmRSS", 5) == 0 || strncmp(line, "RssShmem", 8) == 0)
            printf(" %.*s", (int)strcspn(line, "\n"), line);
    printf("\n");
    if (status)
        fclose(status);
}

int main(int count, char **arguments)
{
    struct rlimit limit = {20000, 20000};
    if (count != 5)
        return 2;
    setrlimit(RLIMIT_NOFILE, &limit);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int port = atoi(arguments[1]), idle = atoi(arguments[2]), busy = atoi(arguments[3]);
    double seconds = atof(arguments[4]);
    alarm((unsigned)(200 + 2 * seconds));
    streams = calloc((size_t)(idle + busy), sizeof *streams);
    set = epoll_create1(0);
    begin(port, 0, busy);
    memory("busy ones only");
    double alone = exchange(0, busy, seconds);
    double start = now();
    begin(port, busy, idle);
    printf("%d connections in %.1f s\n", idle, now() - start);
    memory("with the idle ones");
    double beside = exchange(0, busy, seconds);
    exchange(busy, idle, 0);
    memory("after each was used");
    printf("answers per second: %d busy alone %.0f, beside %d idle %.0f (%.2f)\n", busy, alone, idle, beside,
           beside / alone);
    return 0;
}
