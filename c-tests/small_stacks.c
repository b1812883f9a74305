/* Threads with the smallest stack that there is (PTHREAD_STACK_MIN): every kind of call fits. */
#include <limits.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>

#include "t.h"

static int fd, control, udp, listener, port, set;
static char block[4096];

static long do_socket(void)
{
    int made = t_tcp(0);
    return made >= 0 && close(made) == 0 ? 0 : -1;
}
static long do_write(void) { return write(fd, "x", 1) == 1 ? 0 : -1; }
static long do_read(void) { return read(fd, block, 1) == 1 ? 0 : -1; }
static long do_connect(void)
{
    int made = t_tcp(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT_ECHO)};
    inet_pton(AF_INET, T_PEER, &address.sin_addr);
    long result = connect(made, (struct sockaddr *)&address, sizeof address);
    close(made);
    return result;
}
static long do_poll(void)
{
    struct pollfd entries[2] = {{fd, POLLIN, 0}, {udp, POLLIN, 0}};
    return poll(entries, 2, 5);
}
static long do_select(void)
{
    fd_set read_set;
    struct timeval span = {0, 5000};
    FD_ZERO(&read_set);
    FD_SET(fd, &read_set);
    return select(fd + 1, &read_set, NULL, NULL, &span);
}
static long do_epoll(void)
{
    struct epoll_event events[4];
    return epoll_wait(set, events, 4, 5);
}
static long do_option(void)
{
    struct tcp_info information;
    socklen_t length = sizeof information;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &information, &length);
}
static long do_udp(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT_UDP_ECHO)};
    inet_pton(AF_INET, T_PEER, &address.sin_addr);
    struct iovec part = {block, 100};
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &part, .msg_iovlen = 1};
    if (sendmsg(udp, &message, 0) != 100)
        return -1;
    return recvmsg(udp, &message, 0) == 100 ? 0 : -1;
}
static long do_large(void)
{
    static char large[1 << 18];
    return send(fd, large, sizeof large, 0) == sizeof large ? 0 : -1;
}

static const struct {
    const char *name;
    long (*call)(void);
} rows[] = {{"socket and close", do_socket}, {"connect", do_connect}, {"write", do_write}, {"read", do_read},
            {"poll", do_poll},               {"select", do_select},   {"epoll_wait", do_epoll},
            {"getsockopt", do_option},       {"sendmsg and recvmsg", do_udp}, {"send of 256 KiB", do_large}};

static long result;

static void *run(void *argument)
{
    result = ((long (*)(void))argument)();
    return NULL;
}

/* test REF C-06 */
int main(void)
{
    bool told = getenv("T_STACK_USE") != NULL;
    t_begin();
    fd = peer_pair(&control);
    udp = MUST(t_udp(0));
    listener = t_listener(0, &port);
    set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, udp, &event));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event));
    MUST(peer_ask(control, "SEND 1"));
    MUST(peer_tell(control, "RECV 1"));
    /* glibc takes the thread's static TLS out of the same memory, so the least is what sysconf says. */
    size_t size = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    if (size < 16384)
        size = 16384;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *memory = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(memory, 0x5a, size + 4096);
        mprotect(memory, 4096, PROT_NONE);
        pthread_attr_t attributes;
        pthread_t thread;
        pthread_attr_init(&attributes);
        pthread_attr_setstack(&attributes, memory + 4096, size);
        result = -1;
        if (i == 9)
            MUST(peer_tell(control, "DRAIN"));
        MUST(-pthread_create(&thread, &attributes, run, (void *)rows[i].call));
        pthread_join(thread, NULL);
        CHECK_EQ(result, 0, "%s on the smallest stack", rows[i].name);
        size_t left = 0;
        while (left < size && memory[4096 + left] == 0x5a)
            left++;
        if (told)
            t_print("# %s: %zu of %zu bytes\n", rows[i].name, size - left, size);
        munmap(memory, size + 4096);
    }
    return t_end();
}
