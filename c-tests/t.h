/* Test kit of the C tests: TAP output, checks, a deadline, addresses from the environment, and the ways to reach the
 * peer. Everything is static inline, so a test stays one file compiled by plain gcc.
 *
 * TAP is written with write(2) on t_out, never with stdio: a test may close fd 1 or fork at any point.
 * A line holds the rule only, no value that could differ from run to run; what was got appears after a failure. */
#ifndef T_H
#define T_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "services.h"

/* A program must end well within the 20 s of run.sh, so that its own message is seen, not the runner's. */
#define T_DEADLINE_SECONDS 17
/* What must happen at once on an idle link gets this long on a loaded machine. */
#define T_PATIENCE_MS 5000

/* The descriptor of the report; a test that closes 1 moves it. */
static int t_out = 1;
static int t_count;
static int t_failures;
static const char *volatile t_step = "start";

static inline void t_write(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t written = write(t_out, text, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        text += written;
        length -= (size_t)written;
    }
}

__attribute__((format(printf, 1, 2))) static inline void t_print(const char *format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    t_write(line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
}

static inline void t_on_deadline(int signal_number)
{
    (void)signal_number;
    static const char head[] = "not ok - deadline passed in: ";
    t_write(head, sizeof head - 1);
    t_write(t_step, strlen(t_step));
    t_write("\n", 1);
    _exit(1);
}

/* Also for a forked child: alarms are not inherited. */
static inline void t_arm_deadline(unsigned seconds)
{
    struct sigaction action = {.sa_handler = t_on_deadline};
    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
}

static inline void t_begin(void)
{
    signal(SIGPIPE, SIG_IGN);
    t_arm_deadline(T_DEADLINE_SECONDS);
}

/* Prints the plan; the value is the exit status. */
static inline int t_end(void)
{
    t_print("1..%d\n", t_count);
    return t_failures == 0 && t_count > 0 ? 0 : 1;
}

__attribute__((format(printf, 2, 3))) static inline bool t_report(bool passed, const char *format, ...)
{
    char rule[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rule, sizeof rule, format, arguments);
    va_end(arguments);
    t_count++;
    if (!passed)
        t_failures++;
    t_print("%s %d - %s\n", passed ? "ok" : "not ok", t_count, rule);
    return passed;
}

#define T_TEXT_(x) #x
#define T_TEXT(x) T_TEXT_(x)
#define T_HERE(text) (t_step = __FILE__ ":" T_TEXT(__LINE__) ": " text)

/* The rule is a printf format: CHECK(condition, "port %d is free", port). */
#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        T_HERE(#condition);                                                                                            \
        bool t_passed = (condition);                                                                                   \
        int t_errno = errno;                                                                                           \
        if (!t_report(t_passed, __VA_ARGS__))                                                                          \
            t_print("# %s:%d: %s is false (errno %s)\n", __FILE__, __LINE__, #condition, strerrorname_np(t_errno));    \
        errno = t_errno;                                                                                               \
    } while (0)

#define CHECK_EQ(actual, expected, ...)                                                                                \
    do {                                                                                                               \
        T_HERE(#actual);                                                                                               \
        long long t_actual = (long long)(actual);                                                                      \
        int t_errno = errno;                                                                                           \
        long long t_expected = (long long)(expected);                                                                  \
        if (!t_report(t_actual == t_expected, __VA_ARGS__))                                                            \
            t_print("# %s:%d: %s gave %lld (errno %s), expected %lld\n", __FILE__, __LINE__, #actual, t_actual,        \
                    strerrorname_np(t_errno), t_expected);                                                             \
        errno = t_errno;                                                                                               \
    } while (0)

/* The call must return -1 with this errno. */
#define CHECK_ERRNO(call, expected, ...)                                                                               \
    do {                                                                                                               \
        T_HERE(#call);                                                                                                 \
        errno = 0;                                                                                                     \
        long long t_actual = (long long)(call);                                                                        \
        int t_errno = errno;                                                                                           \
        if (!t_report(t_actual == -1 && t_errno == (expected), __VA_ARGS__))                                           \
            t_print("# %s:%d: %s gave %lld errno %s, expected %s\n", __FILE__, __LINE__, #call, t_actual,              \
                    strerrorname_np(t_errno), #expected);                                                              \
    } while (0)

/* Polls for everything until the mask is exactly this one; a mask that never comes shows the last one seen. */
#define CHECK_MASK(fd, expected, ...)                                                                                  \
    do {                                                                                                               \
        T_HERE("poll mask of " #fd);                                                                                   \
        int t_expected = (expected);                                                                                   \
        int t_actual = t_mask_settles(fd, t_expected);                                                                 \
        if (!t_report(t_actual == t_expected, __VA_ARGS__)) {                                                          \
            char t_got[96], t_want[96];                                                                                \
            t_print("# %s:%d: poll mask is%s, expected%s\n", __FILE__, __LINE__, t_mask_name(t_actual, t_got),         \
                    t_mask_name(t_expected, t_want));                                                                  \
        }                                                                                                              \
    } while (0)

/* Set-up without which the rest makes no sense: the program ends here when it fails. The value is the call's. */
#define MUST(call)                                                                                                     \
    ({                                                                                                                 \
        T_HERE(#call);                                                                                                 \
        long long t_value = (long long)(call);                                                                         \
        if (t_value < 0) {                                                                                             \
            t_report(false, "set-up: %s", #call);                                                                      \
            t_print("# %s:%d: errno %s\n", __FILE__, __LINE__, strerrorname_np(errno));                                \
            exit(t_end());                                                                                             \
        }                                                                                                              \
        (int)t_value;                                                                                                  \
    })

/* Memory that cannot be read or written; volatile, so that the compiler does not warn of what is meant. */
static void *volatile t_nowhere __attribute__((unused)) = (void *)1;

static inline long long t_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void t_sleep_ms(long milliseconds)
{
    struct timespec rest = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
}

/* ---- poll masks ---- */

/* What poll reports for "readable" and "writable" when everything is asked for; datagram sockets say one bit more. */
#define MASK_IN (POLLIN | POLLRDNORM)
#define MASK_OUT (POLLOUT | POLLWRNORM)
#define MASK_OUT_UDP (MASK_OUT | POLLWRBAND)
#define MASK_ALL (POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM | POLLRDBAND | POLLWRBAND | POLLMSG)

static inline int t_mask(int fd)
{
    struct pollfd entry = {fd, MASK_ALL, 0};
    if (poll(&entry, 1, 0) < 0)
        return -1;
    return entry.revents;
}

static inline int t_mask_settles(int fd, int expected)
{
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    for (;;) {
        int mask = t_mask(fd);
        if (mask == expected || t_now_ms() > deadline)
            return mask;
        t_sleep_ms(1);
    }
}

static inline const char *t_mask_name(int mask, char text[96])
{
    static const struct {
        int bit;
        const char *name;
    } names[] = {{POLLIN, " IN"},         {POLLOUT, " OUT"},       {POLLPRI, " PRI"},       {POLLRDHUP, " RDHUP"},
                 {POLLHUP, " HUP"},       {POLLERR, " ERR"},       {POLLNVAL, " NVAL"},     {POLLRDNORM, " RDNORM"},
                 {POLLWRNORM, " WRNORM"}, {POLLRDBAND, " RDBAND"}, {POLLWRBAND, " WRBAND"}, {POLLMSG, " MSG"}};
    text[0] = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (mask & names[i].bit)
            strcat(text, names[i].name);
    if (text[0] == 0)
        strcpy(text, " (none)");
    return text;
}

/* Waits for any of `events`; the revents, 0 after the patience is over. */
static inline int t_wait(int fd, int events)
{
    struct pollfd entry = {fd, (short)events, 0};
    int ready = poll(&entry, 1, T_PATIENCE_MS);
    return ready > 0 ? entry.revents : ready;
}

/* ---- addresses ---- */

static inline const char *t_environment(const char *name, const char *fallback)
{
    const char *value = getenv(name);
    return value && *value ? value : fallback;
}

#define T_PEER t_environment("T_PEER", "10.99.0.2")
#define T_LOCAL t_environment("T_LOCAL", "10.99.0.1")
#define T_BROADCAST t_environment("T_BROADCAST", "10.99.0.255")
#define T_NET_DEAD t_environment("T_NET_DEAD", "10.99.0.77")   /* on the link, nobody there */
#define T_BLACKHOLE t_environment("T_BLACKHOLE", "10.98.0.1")  /* the peer drops it silently */
#define T_UNREACH t_environment("T_UNREACH", "10.98.0.2")      /* the peer answers ICMP host unreachable */
#define T_PROHIBIT t_environment("T_PROHIBIT", "10.98.0.3")    /* the peer answers ICMP administratively prohibited */
#define T_NOROUTE t_environment("T_NOROUTE", "192.0.2.1")      /* no route here without a gateway, none at the peer */
#define T_FOREIGN t_environment("T_FOREIGN", "10.77.77.77")    /* an address that is nobody's, for bind */

static inline struct sockaddr_in t_address(const char *ip, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, ip, &address.sin_addr) != 1) {
        t_report(false, "set-up: \"%s\" is an IPv4 address", ip);
        exit(t_end());
    }
    return address;
}

static inline int t_tcp(int flags)
{
    return socket(AF_INET, SOCK_STREAM | flags, 0);
}

static inline int t_udp(int flags)
{
    return socket(AF_INET, SOCK_DGRAM | flags, 0);
}

static inline int t_connect(int fd, const char *ip, int port)
{
    struct sockaddr_in address = t_address(ip, port);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static inline int t_bind(int fd, const char *ip, int port)
{
    struct sockaddr_in address = t_address(ip, port);
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

static inline int t_disconnect(int fd)
{
    struct sockaddr address = {.sa_family = AF_UNSPEC};
    return connect(fd, &address, sizeof address);
}

static inline struct sockaddr_in t_sockname(int fd)
{
    struct sockaddr_in address = {0};
    socklen_t length = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &length);
    return address;
}

static inline int t_local_port(int fd)
{
    return ntohs(t_sockname(fd).sin_port);
}

static inline bool t_is(struct sockaddr_in address, const char *ip)
{
    return address.sin_family == AF_INET && address.sin_addr.s_addr == t_address(ip, 0).sin_addr.s_addr;
}

/* Reads and clears SO_ERROR; -1 when getsockopt fails. */
static inline int t_so_error(int fd)
{
    int error = -1;
    socklen_t length = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
        return -1;
    return error;
}

static inline int t_option(int fd, int level, int name)
{
    int value = -1;
    socklen_t length = sizeof value;
    if (getsockopt(fd, level, name, &value, &length) != 0)
        return -1;
    return value;
}

static inline int t_set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value);
}

static inline int t_set_timeout(int fd, int name, long milliseconds)
{
    struct timeval timeout = {milliseconds / 1000, milliseconds % 1000 * 1000};
    return setsockopt(fd, SOL_SOCKET, name, &timeout, sizeof timeout);
}

static inline int t_tcp_state(int fd)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
        return -1;
    return info.tcpi_state;
}

static inline int t_set_linger(int fd, int on, int seconds)
{
    struct linger linger = {on, seconds};
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* ---- data ---- */

/* Bytes written, fewer only after an error. */
static inline ssize_t t_write_all(int fd, const void *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t written = write(fd, (const char *)data + done, length - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            break;
        done += (size_t)written;
    }
    return (ssize_t)done;
}

/* Bytes read, fewer only at the end of the stream or after an error. */
static inline ssize_t t_read_all(int fd, void *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t got = read(fd, (char *)data + done, length - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

/* ---- the peer ---- */

/* A blocking TCP connection to one of the peer's services. */
static inline int peer_connect(int port)
{
    int fd = t_tcp(SOCK_CLOEXEC);
    if (fd >= 0 && t_connect(fd, T_PEER, port) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Sends a command line to the puppet; does not wait for the answer. */
__attribute__((format(printf, 2, 3))) static inline int peer_tell(int control, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof line - 1)
        return -1;
    line[length++] = '\n';
    return t_write_all(control, line, (size_t)length) == length ? 0 : -1;
}

/* The answer to the oldest unanswered command, without its newline; "" when there is none. */
static inline const char *peer_answer(int control)
{
    static char answer[256];
    size_t length = 0;
    while (length < sizeof answer - 1 && read(control, answer + length, 1) == 1 && answer[length] != '\n')
        length++;
    answer[length] = 0;
    return answer;
}

/* The number of an "OK n" answer; -1 with errno set for "ERR errno". */
static inline long peer_number(int control)
{
    const char *answer = peer_answer(control);
    long number = 0;
    if (strncmp(answer, "OK", 2) == 0)
        return sscanf(answer, "OK %ld", &number) == 1 ? number : 0;
    errno = sscanf(answer, "ERR %ld", &number) == 1 ? (int)number : EPROTO;
    return -1;
}

#define peer_ask(control, ...) (peer_tell(control, __VA_ARGS__) == 0 ? peer_number(control) : -1)

/* A connection that we opened and whose far end obeys `*control`, a new puppet. */
static inline int peer_pair(int *control)
{
    *control = MUST(peer_connect(PORT_COMMAND));
    int port = MUST(peer_ask(*control, "LISTEN"));
    int fd = MUST(peer_connect(port));
    MUST(peer_ask(*control, "ACCEPT"));
    return fd;
}

/* A port that is free now: taken once and given back. For tests that bind a port by number, which Linux keeps with
 * the socket for good, while a port from bind to 0 goes back at the first disconnect. */
static inline int t_free_port(void)
{
    int fd = MUST(t_tcp(0));
    MUST(t_bind(fd, T_LOCAL, 0));
    int port = t_local_port(fd);
    close(fd);
    return port;
}

/* A listening socket on T_LOCAL with a port of the stack's choice. */
static inline int t_listener(int flags, int *port)
{
    int fd = MUST(t_tcp(flags));
    MUST(t_bind(fd, T_LOCAL, 0));
    MUST(listen(fd, 16));
    *port = t_local_port(fd);
    return fd;
}

/* ---- signals ---- */

static volatile sig_atomic_t t_signals;

static inline void t_count_signal(int signal_number)
{
    (void)signal_number;
    t_signals = t_signals + 1;
}

static inline void t_catch(int signal_number, int flags)
{
    struct sigaction action = {.sa_handler = t_count_signal, .sa_flags = flags};
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
}

/* A timer that sends the signal to this process every `milliseconds`, so that it also comes to a call that was not yet
 * asleep the first time. Stop it with timer_delete. */
static inline timer_t t_signal_every(int signal_number, long milliseconds)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal_number};
    struct timespec period = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    struct itimerspec setting = {period, period};
    timer_t timer;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    MUST(timer_settime(timer, 0, &setting, NULL));
    return timer;
}

#endif
