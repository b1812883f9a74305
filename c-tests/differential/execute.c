/* The executor of the differential harness: obeys one sequence per message on real sockets and answers with the
 * transcript: per operation the value, the errno, what was written where, and the masks of poll and of a level-triggered
 * epoll set. What may differ from run to run is named, not shown: P is the sequence's own port, E an ephemeral one.
 * It does not know whether its sockets are the kernel's. Operations are in operations.c. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "execute.h"

struct executor x;

void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(x.transcript + x.used, sizeof x.transcript - x.used, format, arguments);
    va_end(arguments);
    if (length > 0 && x.used + (size_t)length < sizeof x.transcript)
        x.used += (size_t)length;
}

static void on_signal(int number)
{
    if (number == SIGPIPE)
        x.pipes++;
    else
        x.urgents++;
}

static void rest_ms(long milliseconds)
{
    struct timespec rest = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&rest, NULL);
}

static int mask_of(int fd)
{
    struct pollfd entry = {fd, EVERY_EVENT, 0};
    return poll(&entry, 1, 0) < 0 ? -1 : entry.revents;
}

static int epoll_mask(void)
{
    struct epoll_event event = {0};
    int ready = epoll_wait(x.set, &event, 1, 0);
    return ready < 0 ? -1 : ready == 0 ? 0 : (int)event.events;
}

/* The set follows the socket under test. */
void watch(int fd)
{
    struct epoll_event event = {.events = EVERY_EVENT};
    if (x.set >= 0)
        close(x.set);
    x.set = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(x.set, EPOLL_CTL_ADD, fd, &event) != 0)
        say(" epoll_ctl %s", strerrorname_np(errno));
}

static char *next_part(char **rest, char mark)
{
    char *start = *rest, *end;
    if (start == NULL)
        return NULL;
    end = strchr(start, mark);
    if (end != NULL)
        *end++ = 0;
    *rest = end;
    while (*start == ' ')
        start++;
    return start;
}

static void obey_operation(char *operation)
{
    char *words[MOST_WORDS] = {0}, *rest = operation;
    int count = 0;
    say("%s =>", operation);
    while (count < MOST_WORDS && (words[count] = next_part(&rest, ' ')) != NULL)
        if (words[count][0] != 0)
            count++;
    for (int i = count; i < MOST_WORDS; i++)
        words[i] = "";
    x.pipes = x.urgents = 0;
    operate(words);
    /* What the peer answers at once has come before the masks are looked at: a word with it gives the time. */
    static const char *const telling[] = {"send", "sendto", "sendmsg", "sendmmsg", "write", "writev", "connect", "shutdown",
                                          "sendfile", "splice", "pwritev2"};
    for (size_t i = 0; i < sizeof telling / sizeof telling[0]; i++)
        if (strcmp(words[0], telling[i]) == 0)
            ask_peer("sync");
    if (x.pipes > 0)
        say(" SIGPIPE*%d", x.pipes);
    if (x.slow)
        rest_ms(SLOW_MS);
    if (x.fd >= 0) {
        int polled = mask_of(x.fd);
        say(" mask %x", polled);
        int set = epoll_mask();
        if (set != polled)
            say(" epoll %x", set);
    }
    say("\n");
}

static void begin(void)
{
    x.used = 0;
    x.fd = x.taken = x.set = -1;
    x.slow = x.six = x.times = false;
    x.sent = 0;
    x.transcript[0] = 0;
}

static void end(void)
{
    struct linger linger = {1, 0};
    int *mine[] = {&x.fd, &x.taken};
    for (size_t i = 0; i < 2; i++)
        if (*mine[i] >= 0) {
            setsockopt(*mine[i], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
            close(*mine[i]);
        }
    if (x.set >= 0)
        close(x.set);
    /* What an operation opened by mistake is seen in the next sequence's numbers; so none may stay. */
    close_range(3, FD_DRIVER - 1, 0);
    ask_peer("forget");
}

int execute_main(void)
{
    static char line[SEQUENCE_SIZE];
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGURG, &action, NULL);
    x.read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    make_buffer();
    x.local = getenv("T_LOCAL") != NULL ? getenv("T_LOCAL") : "10.99.0.1";
    x.peer = getenv("T_PEER") != NULL ? getenv("T_PEER") : "10.99.0.2";
    x.blackhole = getenv("T_BLACKHOLE") != NULL ? getenv("T_BLACKHOLE") : "10.98.0.1";
    for (unsigned number = 0;; number++) {
        ssize_t length = recv(FD_DRIVER, line, sizeof line - 1, 0);
        if (length <= 0)
            return 0;
        line[length] = 0;
        begin();
        char *rest = line, *operation;
        /* The driver says which port is P. */
        x.port = atoi(next_part(&rest, ';'));
        while ((operation = next_part(&rest, ';')) != NULL)
            if (strcmp(operation, "slow") == 0)
                x.slow = true;
            else if (operation[0] != 0)
                obey_operation(operation);
        end();
        if (send(FD_DRIVER, x.transcript, x.used, MSG_NOSIGNAL) < 0)
            return 0;
    }
}
