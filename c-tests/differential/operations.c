/* The operations of the differential harness: from words to one call, and from what the call did to words. Memory that is
 * given to a call is filled with a mark before, so that what was written shows. Leaves the order of operations and the
 * masks to execute.c. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "execute.h"

#define MARK 0xa5
/* The least that is taken for an address of IPv6 (RFC 2133 knew no scope). */
#define SIN6_LEN_RFC2133 24

static unsigned char control[1024], name_buffer[512];
/* Ends where nothing is mapped: who reads on meets EFAULT at the same byte everywhere. */
static unsigned char *buffer;

void make_buffer(void)
{
    size_t page = 4096, pages = (BUFFER_SIZE + page - 1) / page * page;
    unsigned char *place = mmap(NULL, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(place + pages, page, PROT_NONE);
    buffer = place + pages - BUFFER_SIZE;
}

static long number(const char *word)
{
    return strtol(word, NULL, 0);
}

static bool is(const char *word, const char *text)
{
    return strcmp(word, text) == 0;
}

/* Says the value of a call; true when it succeeded. */
bool outcome(long value)
{
    if (value < 0)
        say(" %ld %s", value, strerrorname_np(errno));
    else
        say(" %ld", value);
    return value >= 0;
}

/* ---- addresses in ---- */

static void put_inet(const char *ip, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, ip, &address.sin_addr);
    memcpy(name_buffer, &address, sizeof address);
}

/* An IPv4 address as one of IPv6; that of nobody in particular is "::". */
static void put_inet6(const char *ip, int port)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
    char mapped[INET6_ADDRSTRLEN];
    snprintf(mapped, sizeof mapped, strcmp(ip, "0.0.0.0") == 0 ? "::" : "::ffff:%s", ip);
    inet_pton(AF_INET6, mapped, &address.sin6_addr);
    memcpy(name_buffer, &address, sizeof address);
}

/* Lengths stand for an AF_INET address in the tables: the right one, one less, one more. */
static socklen_t name_length(const char *word)
{
    long length = number(word);
    if (!x.six)
        return (socklen_t)length;
    return length == 16   ? sizeof(struct sockaddr_in6)
           : length == 15 ? SIN6_LEN_RFC2133 - 1
           : length == 17 ? sizeof(struct sockaddr_in6) + 1
                          : (socklen_t)length;
}

static void put_family(int family)
{
    unsigned short value = (unsigned short)family;
    memcpy(name_buffer, &value, sizeof value);
}

/* The address that a word stands for; "odd:" before it moves it to an odd place. */
static void *address_in(const char *word)
{
    static unsigned char odd[600];
    memset(name_buffer, 0, sizeof name_buffer);
    if (strncmp(word, "odd:", 4) == 0) {
        address_in(word + 4);
        memcpy(odd + 1, name_buffer, sizeof name_buffer);
        return odd + 1;
    }
    if (strncmp(word, "v4:", 3) == 0) {
        bool six = x.six;
        x.six = false;
        void *place = address_in(word + 3);
        x.six = six;
        return place;
    }
    if (is(word, "null"))
        return NULL;
    if (is(word, "bad"))
        return (void *)1;
    const struct {
        const char *word, *ip;
        int port;
    } known[] = {{"any0", "0.0.0.0", 0},
                 {"anyP", "0.0.0.0", x.port},
                 {"any1", "0.0.0.0", PORT_LISTENER},
                 {"localP", x.local, x.port},
                 {"local0", x.local, 0},
                 {"foreign0", "10.77.77.77", 0},
                 {"peerL", x.peer, PORT_LISTENER},
                 {"peerN", x.peer, PORT_NOBODY},
                 {"peerD", x.peer, PORT_DATAGRAM},
                 {"peer0", x.peer, 0},
                 {"hole", x.blackhole, PORT_LISTENER},
                 {"broadcast", "255.255.255.255", PORT_DATAGRAM},
                 {"multicast", "224.1.2.3", PORT_DATAGRAM},
                 {"broadcastP", "255.255.255.255", x.port},
                 {"multicastP", "224.1.2.3", x.port},
                 {"class-e", "240.0.0.1", PORT_DATAGRAM},
                 {"unspec", "0.0.0.0", 0},
                 {"unspecP", "0.0.0.0", x.port},
                 {"unspec-local", x.local, 0}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (is(word, known[i].word) && x.six)
            put_inet6(known[i].ip, known[i].port);
        else if (is(word, known[i].word))
            put_inet(known[i].ip, known[i].port);
    if (strncmp(word, "unspec", 6) == 0)
        put_family(AF_UNSPEC);
    else if (strncmp(word, "family:", 7) == 0) {
        if (x.six)
            put_inet6(x.peer, PORT_LISTENER);
        else
            put_inet(x.peer, PORT_LISTENER);
        put_family((int)number(word + 7));
    }
    return name_buffer;
}

/* ---- results out ---- */

static void *place_out(const char *word, void *memory, size_t size)
{
    memset(memory, MARK, size);
    if (is(word, "null"))
        return NULL;
    if (is(word, "bad"))
        return (void *)1;
    if (is(word, "readonly"))
        return x.read_only;
    return memory;
}

static size_t written(const unsigned char *memory, size_t size)
{
    while (size > 0 && memory[size - 1] == MARK)
        size--;
    return size;
}

static void say_bytes(const unsigned char *bytes, size_t length)
{
    size_t shown = length < 48 ? length : 48;
    unsigned sum = 0;
    say(" [");
    for (size_t i = 0; i < shown; i++)
        say("%02x", bytes[i]);
    for (size_t i = 0; i < length; i++)
        sum = (sum * 31 + bytes[i]) & 0xffffff;
    say(shown < length ? "..%zu:%x]" : "]", length, sum);
}

static const char *port_name(int port)
{
    return port == 0               ? "0"
           : port == x.port        ? "P"
           : port == PORT_LISTENER ? "L"
           : port == PORT_NOBODY   ? "N"
           : port == PORT_DATAGRAM ? "D"
                                   : "E";
}

static void say_name(const unsigned char *memory, size_t size)
{
    size_t length = written(memory, size);
    unsigned short family, port;
    if (length < 8) {
        say(" {%zu}", length);
        return;
    }
    memcpy(&family, memory, 2);
    memcpy(&port, memory + 2, 2);
    say(" {%d %u.%u.%u.%u:%s", family, memory[4], memory[5], memory[6], memory[7], port_name(ntohs(port)));
    for (size_t i = 8; i < length; i++)
        if (memory[i] != 0)
            say(" %zu=%02x", i, memory[i]);
    say(" %zu}", length);
}

/* ---- the peer ---- */

const char *ask_peer(const char *command)
{
    static char answer[256];
    char line[160];
    struct pollfd entries[2] = {{FD_PEER, POLLIN, 0}, {x.fd, 0, 0}};
    int length = 0;
    if (x.slow)
        line[length++] = SLOW_MARK;
    length += snprintf(line + length, sizeof line - 1, "%s", command);
    if (send(FD_PEER, line, (size_t)length, MSG_NOSIGNAL) < 0)
        return "gone";
    /* The socket under test is polled too, so that whoever carries its stack is awake; one that has an error or a hang-up
     * would end the wait at once. */
    int ready = poll(entries, x.fd >= 0 ? 2 : 1, 1000);
    if (ready > 0 && entries[0].revents == 0)
        poll(entries, 1, 1000);
    ssize_t got = recv(FD_PEER, answer, sizeof answer - 1, 0);
    answer[got > 0 ? got : 0] = 0;
    /* A socket that is ready is not waited for: the state of its connection is asked for, so that what has come counts. */
    struct tcp_info information;
    socklen_t size = sizeof information;
    if (x.fd >= 0)
        getsockopt(x.fd, IPPROTO_TCP, TCP_INFO, &information, &size);
    return answer;
}

static void peer_operation(char **words)
{
    char command[128];
    const char *verb = words[0] + 1;
    if (is(verb, "connect")) {
        snprintf(command, sizeof command, "connect %s %d", x.local, x.port);
    } else if (is(verb, "datagram")) {
        /* The port stands at the same place in both families. */
        struct sockaddr_in mine = {0};
        socklen_t length = sizeof mine;
        getsockname(x.fd, (struct sockaddr *)&mine, &length);
        snprintf(command, sizeof command, "datagram %s %d %s", x.local, ntohs(mine.sin_port), words[1]);
    } else if (is(verb, "receive")) {
        snprintf(command, sizeof command, "receive %u", x.sent);
        x.sent = 0;
    } else {
        snprintf(command, sizeof command, "%s %s", verb, words[1]);
    }
    say(" %s", ask_peer(command));
}

/* ---- data ---- */

static void *data_out(const char *word, size_t length)
{
    if (is(word, "null"))
        return NULL;
    if (is(word, "bad"))
        return (void *)1;
    for (size_t i = 0; i < length && i < BUFFER_SIZE; i++)
        buffer[i] = (unsigned char)(x.sent + i);
    if (is(word, "echo"))
        memcpy(buffer, "\x08\0\0\0\0\0\0\1", 8);
    return buffer;
}

static void sent(long value)
{
    if (outcome(value))
        x.sent += (unsigned)value;
}

void hide_what_is_drawn(unsigned char *bytes, size_t length)
{
    /* The identifier of an echo is drawn at random, and its checksum goes with it. */
    for (size_t i = 2; x.echoes && i < 6 && i < length; i++)
        bytes[i] = 0;
    /* So is the identification of a packet, which a raw socket shows. */
    for (size_t i = 4; x.packets && i < 12 && i < length; i++)
        if (i < 6 || i > 9)
            bytes[i] = 0;
}

static void received(long value, size_t room, int flags)
{
    if (!outcome(value))
        return;
    size_t length = (size_t)value < room ? (size_t)value : room;
    /* A packet that is quoted with its time begins with addresses of the link, and has numbers drawn at random. */
    if (x.times && (flags & MSG_ERRQUEUE) != 0) {
        say(" quoted");
        return;
    }
    hide_what_is_drawn(buffer, length);
    if (length > 0 && length < BUFFER_SIZE)
        say_bytes(buffer, length);
}

static void say_control(const struct msghdr *message)
{
    if (message->msg_control != control)
        return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR((struct msghdr *)message, c)) {
        say(" cmsg %d/%d", c->cmsg_level, c->cmsg_type);
        /* IP_ORIGDSTADDR: the port may be an ephemeral one. */
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == 20 && c->cmsg_len >= CMSG_LEN(4))
            memset(CMSG_DATA(c) + 2, 0, 2);
        /* Times differ from run to run. */
        if (c->cmsg_level != SOL_SOCKET && c->cmsg_len >= CMSG_LEN(0) && c->cmsg_len < sizeof control)
            say_bytes(CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    }
}

static bool is_timestamping(int option)
{
    return option == SO_TIMESTAMPING_OLD || option == SO_TIMESTAMPING_NEW;
}

/* One control message: LEVEL:TYPE:VALUE:LENGTH after "cmsg:", else one of a level that nobody has; "short" is shorter
 * than a header. Returns the room that it takes. */
static size_t put_control(const char *word)
{
    struct cmsghdr header = {.cmsg_len = CMSG_LEN(4), .cmsg_level = 77, .cmsg_type = 1};
    int value = 0, length = 4;
    if (sscanf(word, "cmsg:%d:%d:%d:%d", &header.cmsg_level, &header.cmsg_type, &value, &length) == 4)
        header.cmsg_len = CMSG_LEN((size_t)length);
    if (is(word, "short"))
        header.cmsg_len = 3;
    x.times |= header.cmsg_level == SOL_SOCKET && is_timestamping(header.cmsg_type);
    memcpy(control, &header, sizeof header);
    memcpy(CMSG_DATA((struct cmsghdr *)control), &value, sizeof value);
    return CMSG_SPACE((size_t)length);
}

/* sendmsg/recvmsg NAME NAMELEN IOV IOVLEN BYTES CONTROL CONTROLLEN FLAGS */
static void message_operation(char **words, bool sends)
{
    struct iovec vectors[1100] = {{0}};
    struct msghdr message = {.msg_namelen = sends ? name_length(words[2]) : (socklen_t)number(words[2]),
                             .msg_iovlen = (size_t)number(words[4]),
                             .msg_controllen = (size_t)number(words[7]),
                             .msg_flags = 0x5a5a};
    size_t bytes = (size_t)number(words[5]);
    int flags = (int)number(words[8]);
    memset(buffer, MARK, BUFFER_SIZE);
    vectors[0] = (struct iovec){data_out(is(words[3], "badbase") ? "bad" : "buf", bytes), bytes};
    message.msg_iov = is(words[3], "null") ? NULL : is(words[3], "bad") ? (void *)1 : vectors;
    memset(control, 0, sizeof control);
    message.msg_control = is(words[6], "null") ? NULL : is(words[6], "bad") ? (void *)1 : control;
    if (sends) {
        message.msg_name = address_in(words[1]);
        size_t space = put_control(words[6]);
        if (is(words[7], "fit"))
            message.msg_controllen = space;
        sent(sendmsg(x.fd, &message, flags));
        return;
    }
    message.msg_name = place_out(words[1], name_buffer, sizeof name_buffer);
    memset(buffer, MARK, BUFFER_SIZE);
    long value = recvmsg(x.fd, &message, flags);
    received(value, bytes, flags);
    say_name(name_buffer, sizeof name_buffer);
    if (value >= 0) {
        say(" flags %x namelen %u controllen %zu", message.msg_flags, message.msg_namelen, message.msg_controllen);
        say_control(&message);
    }
}

/* sendmmsg/recvmmsg WHERE VLEN FLAGS [NANOSECONDS] */
static void many_operation(char **words, bool sends)
{
    static struct mmsghdr messages[3];
    static struct iovec vectors[3];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < 3; i++) {
        vectors[i] = (struct iovec){buffer + i * 4, 4};
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_len = 0x77;
    }
    struct timespec time = {0, number(words[4])};
    struct timespec *patience = words[4][0] == 0 ? NULL : is(words[4], "bad") ? (void *)1 : &time;
    struct mmsghdr *where = is(words[1], "null") ? NULL : is(words[1], "bad") ? (void *)1 : messages;
    if (sends)
        data_out("buf", 12);
    long value = sends ? sendmmsg(x.fd, where, (unsigned)number(words[2]), (int)number(words[3]))
                       : recvmmsg(x.fd, where, (unsigned)number(words[2]), (int)number(words[3]), patience);
    outcome(value);
    for (int i = 0; i < 3; i++)
        say(" %u", messages[i].msg_len);
    if (sends && value > 0)
        for (long i = 0; i < value; i++)
            x.sent += messages[i].msg_len;
}

static bool send_operation(char **words)
{
    const char *call = words[0];
    size_t length = (size_t)number(words[2]);
    if (is(call, "send"))
        sent(send(x.fd, data_out(words[1], length), length, (int)number(words[3])));
    else if (is(call, "write"))
        sent(write(x.fd, data_out(words[1], length), length));
    else if (is(call, "sendto")) {
        void *data = data_out(words[1], length);
        sent(sendto(x.fd, data, length, (int)number(words[3]), address_in(words[4]), name_length(words[5])));
    } else if (is(call, "writev")) {
        struct iovec vectors[1100] = {{0}};
        void *data = data_out(words[1], length);
        vectors[0] = (struct iovec){data, length};
        sent(writev(x.fd, is(words[1], "null") ? NULL : vectors, (int)number(words[3])));
    } else if (is(call, "sendmsg"))
        message_operation(words, true);
    else if (is(call, "sendmmsg"))
        many_operation(words, true);
    else
        return false;
    return true;
}

static bool receive_operation(char **words)
{
    const char *call = words[0];
    size_t length = (size_t)number(words[2]);
    void *place = place_out(words[1], buffer, BUFFER_SIZE);
    if (is(call, "recv"))
        received(recv(x.fd, place, length, (int)number(words[3])), length, (int)number(words[3]));
    else if (is(call, "read"))
        received(read(x.fd, place, length), length, 0);
    else if (is(call, "recvfrom")) {
        socklen_t size = (socklen_t)number(words[5]);
        void *from = place_out(words[4], name_buffer, sizeof name_buffer);
        int flags = (int)number(words[3]);
        received(recvfrom(x.fd, place, length, flags, from, is(words[5], "null") ? NULL : &size), length, flags);
        say(" length %u", size);
        say_name(name_buffer, sizeof name_buffer);
    } else if (is(call, "readv")) {
        struct iovec vectors[1100] = {{0}};
        vectors[0] = (struct iovec){place, length};
        received(readv(x.fd, is(words[1], "null") ? NULL : vectors, (int)number(words[3])), length, 0);
    } else if (is(call, "recvmsg"))
        message_operation(words, false);
    else if (is(call, "recvmmsg"))
        many_operation(words, false);
    else
        return false;
    return true;
}

/* ---- names, options, control ---- */

static void name_operation(char **words, bool ours)
{
    socklen_t length = (socklen_t)number(words[2]);
    void *place = place_out(words[1], name_buffer, sizeof name_buffer);
    socklen_t *size = is(words[2], "null") ? NULL : &length;
    outcome(ours ? getsockname(x.fd, place, size) : getpeername(x.fd, place, size));
    say(" length %u", length);
    say_name(name_buffer, sizeof name_buffer);
}

static void accept_operation(char **words)
{
    socklen_t length = (socklen_t)number(words[2]);
    void *place = place_out(words[1], name_buffer, sizeof name_buffer);
    int fd = accept4(x.fd, place, is(words[2], "null") ? NULL : &length, (int)number(words[3]));
    if (fd >= 0) {
        if (x.taken >= 0)
            close(x.taken);
        x.taken = fd;
        say(" fd flags %x", fcntl(fd, F_GETFL));
    } else {
        outcome(fd);
    }
    say(" length %u", length);
    say_name(name_buffer, sizeof name_buffer);
}

/* Values that differ from run to run or belong to the machine: only their length is shown. */
static bool is_noise(int level, int option)
{
    if (level == SOL_SOCKET)
        return option == 49 /* SO_INCOMING_CPU */ || option == 55 /* SO_MEMINFO */ || option == 56 /* NAPI_ID */ ||
               option == 57 /* SO_COOKIE */ || option == 71 /* SO_NETNS_COOKIE */;
    return level == IPPROTO_TCP && (option == TCP_INFO || option == TCP_TIMESTAMP);
}

/* getsockopt LEVEL OPTION LENGTH PLACE */
static void get_option(char **words)
{
    static unsigned char value[600];
    int level = (int)number(words[1]), option = (int)number(words[2]);
    socklen_t length = (socklen_t)number(words[3]);
    void *place = place_out(words[4], value, sizeof value);
    if (!outcome(getsockopt(x.fd, level, option, place, is(words[3], "null") ? NULL : &length)))
        return;
    /* The namespace has a key, or has none yet. */
    if (level == IPPROTO_TCP && option == TCP_FASTOPEN_KEY)
        return;
    say(" length %u", length);
    /* IP_PROTOCOL gives the local port, or a raw socket's protocol. */
    if (level == IPPROTO_IP && option == 52 && length == 4) {
        memcpy(&length, value, sizeof length);
        if (length > 1024)
            say(" %s", port_name((int)length));
        else if (x.echoes && length > 0)
            say(" E");
        else
            say(" %u", length);
        return;
    }
    /* The peer's port may be an ephemeral one. */
    if (level == SOL_SOCKET && option == SO_PEERNAME) {
        say_name(value, sizeof value);
        return;
    }
    /* What the congestion control has measured differs, what it is about to do does not. */
    if (level == IPPROTO_TCP && option == TCP_CC_INFO)
        memset(value, 0, length < 12 ? length : 12);
    if (level == IPPROTO_TCP && option == TCP_INFO)
        say(" state %u", value[0]);
    else if (!is_noise(level, option))
        say_bytes(value, written(value, sizeof value));
}

/* setsockopt LEVEL OPTION VALUE LENGTH PLACE, and what getsockopt says then */
static void set_option(char **words)
{
    static unsigned char value[600];
    int level = (int)number(words[1]), option = (int)number(words[2]), integer = (int)number(words[3]);
    socklen_t length = (socklen_t)number(words[4]);
    memset(value, 0, sizeof value);
    memcpy(value, &integer, sizeof integer);
    void *place = is(words[5], "null") ? NULL : is(words[5], "bad") ? (void *)1 : value;
    x.times |= level == SOL_SOCKET && is_timestamping(option);
    if (!outcome(setsockopt(x.fd, level, option, place, length)) || is_noise(level, option))
        return;
    memset(value, MARK, sizeof value);
    length = sizeof integer;
    if (outcome(getsockopt(x.fd, level, option, value, &length)))
        say_bytes(value, written(value, sizeof value));
}

/* ioctl REQUEST WHAT: a number, a place, or the name of an interface for struct ifreq */
static void control_operation(char **words)
{
    unsigned long request = strtoul(words[1], NULL, 0);
    static unsigned char memory[256];
    bool interface = strncmp(words[2], "l", 1) == 0 || is(words[2], "nobody");
    unsigned char *value = is(words[2], "odd") ? memory + 1 : memory;
    memset(memory, 0, sizeof memory);
    int integer = (int)number(words[2]);
    memcpy(value, &integer, sizeof integer);
    if (interface)
        snprintf((char *)value, IFNAMSIZ, "%s", words[2]);
    void *place = is(words[2], "null") ? NULL : is(words[2], "bad") ? (void *)1 : value;
    /* The time of a datagram is another one in each run. */
    bool time = request == SIOCGSTAMP_OLD || request == SIOCGSTAMPNS_OLD;
    if (outcome(ioctl(x.fd, request, place)) && !time)
        say_bytes(value, interface ? sizeof(struct ifreq) : 8);
}

static bool meta_operation(char **words)
{
    const char *call = words[0];
    struct stat status;
    if (is(call, "getsockopt"))
        get_option(words);
    else if (is(call, "setsockopt"))
        set_option(words);
    else if (is(call, "ioctl"))
        control_operation(words);
    else if (is(call, "fcntl"))
        outcome(fcntl(x.fd, (int)number(words[1]), number(words[2])));
    else if (is(call, "fstat")) {
        if (outcome(fstat(x.fd, &status)))
            say(" %o size %ld", status.st_mode, (long)status.st_size);
    } else if (is(call, "lseek"))
        outcome(lseek(x.fd, 0, (int)number(words[1])));
    else if (is(call, "ftruncate"))
        outcome(ftruncate(x.fd, 0));
    else if (is(call, "fsync"))
        outcome(fsync(x.fd));
    else if (is(call, "pread"))
        outcome(pread(x.fd, buffer, 1, 0));
    else if (is(call, "pwrite"))
        outcome(pwrite(x.fd, buffer, 1, 0));
    else if (is(call, "isatty"))
        outcome(isatty(x.fd));
    else
        return false;
    return true;
}

/* ---- life of the socket ---- */

static void make_socket(const char *kind)
{
    static const struct {
        const char *kind;
        int family, type, protocol;
    } kinds[] = {{"tcp", AF_INET, SOCK_STREAM, 0},
                 {"udp", AF_INET, SOCK_DGRAM, 0},
                 {"ping", AF_INET, SOCK_DGRAM, IPPROTO_ICMP},
                 {"raw", AF_INET, SOCK_RAW, 253},
                 {"icmp", AF_INET, SOCK_RAW, IPPROTO_ICMP},
                 {"tcp6", AF_INET6, SOCK_STREAM, 0},
                 {"udp6", AF_INET6, SOCK_DGRAM, 0}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (is(kind, kinds[i].kind)) {
            x.echoes = is(kind, "ping");
            x.packets = is(kind, "raw") || is(kind, "icmp");
            x.six = kinds[i].family == AF_INET6;
            x.fd = socket(kinds[i].family, kinds[i].type | SOCK_NONBLOCK, kinds[i].protocol);
            outcome(x.fd);
            watch(x.fd);
        }
}

static void wait_operation(const char *events)
{
    struct pollfd entry = {x.fd, (short)number(events), 0};
    outcome(poll(&entry, 1, x.slow ? 100 : 10));
}

static void select_operation(void)
{
    fd_set sets[3];
    struct timeval none = {0, 0};
    for (int i = 0; i < 3; i++) {
        FD_ZERO(&sets[i]);
        FD_SET(x.fd, &sets[i]);
    }
    outcome(select(x.fd + 1, &sets[0], &sets[1], &sets[2], &none));
    for (int i = 0; i < 3; i++)
        say(" %d", FD_ISSET(x.fd, &sets[i]) != 0);
}

static bool life_operation(char **words)
{
    const char *call = words[0];
    if (is(call, "socket"))
        make_socket(words[1]);
    else if (is(call, "bind"))
        outcome(bind(x.fd, address_in(words[1]), name_length(words[2])));
    else if (is(call, "connect"))
        outcome(connect(x.fd, address_in(words[1]), name_length(words[2])));
    else if (is(call, "listen"))
        outcome(listen(x.fd, (int)number(words[1])));
    else if (is(call, "accept"))
        accept_operation(words);
    else if (is(call, "take")) {
        if (x.taken < 0) {
            say(" nothing");
            return true;
        }
        close(x.fd);
        x.fd = x.taken;
        x.taken = -1;
        fcntl(x.fd, F_SETFL, O_NONBLOCK);
        watch(x.fd);
    } else if (is(call, "shutdown"))
        outcome(shutdown(x.fd, (int)number(words[1])));
    else if (is(call, "getsockname"))
        name_operation(words, true);
    else if (is(call, "getpeername"))
        name_operation(words, false);
    else if (is(call, "wait"))
        wait_operation(words[1]);
    else if (is(call, "select"))
        select_operation();
    else if (is(call, "dup")) {
        int copy = dup(x.fd);
        outcome(copy);
        close(x.fd);
        x.fd = copy;
        watch(x.fd);
    } else if (is(call, "timed")) {
        struct timeval time = {0, 4000};
        fcntl(x.fd, F_SETFL, 0);
        setsockopt(x.fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
        setsockopt(x.fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
    } else {
        return false;
    }
    return true;
}

/* A word that is no operation is an error of the catalogue, and shows as one. */
void operate(char **words)
{
    errno = 0;
    if (words[0][0] == '@')
        peer_operation(words);
    else if (!descriptor_operation(words) && !life_operation(words) && !send_operation(words) && !receive_operation(words) && !meta_operation(words))
        say(" no such operation");
}
