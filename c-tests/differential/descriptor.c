/* The operations of the differential harness that take the socket as a descriptor among others: copies of it, pipes and
 * files beside it, what waits for it, and what is for files only. Socket calls proper are in operations.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "execute.h"

enum { FILE_SIZE = 8192, PIPE_BYTES = 4096 };

static bool is(const char *word, const char *text)
{
    return strcmp(word, text) == 0;
}

static long number(const char *word)
{
    return strtol(word, NULL, 0);
}

/* A file of a known pattern. */
static int pattern_file(void)
{
    unsigned char bytes[FILE_SIZE];
    int fd = memfd_create("pattern", MFD_CLOEXEC);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 7);
    if (fd >= 0 && pwrite(fd, bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        say(" no file");
    return fd;
}

/* sendfile COUNT OFFSET: to the socket from a file; OFFSET is a number, null or bad. */
static void sendfile_operation(char **words)
{
    int file = pattern_file();
    off_t offset = number(words[2]);
    off_t *place = is(words[2], "null") ? NULL : is(words[2], "bad") ? (void *)1 : &offset;
    long value = sendfile(x.fd, file, place, (size_t)number(words[1]));
    outcome(value);
    if (value > 0)
        x.sent += (unsigned)value;
    say(" offset %ld at %ld", (long)offset, (long)lseek(file, 0, SEEK_CUR));
    close(file);
}

/* What a pipe holds, as a length and a sum. */
static void say_pipe(int fd)
{
    unsigned char bytes[PIPE_BYTES];
    unsigned sum = 0;
    long total = 0;
    ssize_t got;
    while ((got = read(fd, bytes, sizeof bytes)) > 0) {
        if (total == 0)
            hide_what_is_drawn(bytes, (size_t)got);
        for (ssize_t i = 0; i < got; i++)
            sum = (sum * 31 + bytes[i]) & 0xffffff;
        total += got;
    }
    say(" pipe %ld:%x", total, sum);
}

/* splice in|out COUNT FLAGS [OFFSET]: between the socket and a pipe. */
static void splice_operation(char **words)
{
    int ends[2];
    unsigned char bytes[PIPE_BYTES];
    bool in = is(words[1], "in");
    size_t count = (size_t)number(words[2]);
    unsigned flags = (unsigned)number(words[3]);
    off64_t offset = 0;
    off64_t *place = is(words[4], "offset") ? &offset : NULL;
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return;
    if (in) {
        outcome(splice(x.fd, place, ends[1], NULL, count, flags));
        say_pipe(ends[0]);
    } else {
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)(x.sent + i);
        if (write(ends[1], bytes, sizeof bytes) != (ssize_t)sizeof bytes)
            say(" pipe");
        long value = splice(ends[0], NULL, x.fd, place, count, flags);
        outcome(value);
        if (value > 0)
            x.sent += (unsigned)value;
    }
    close(ends[0]);
    close(ends[1]);
}

/* What is between two descriptors, of which one must be no socket. */
static bool between_operation(const char *call)
{
    int ends[2], file;
    struct iovec vector = {&file, sizeof file};
    if (is(call, "tee") || is(call, "vmsplice")) {
        if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
            return true;
        outcome(is(call, "tee") ? tee(x.fd, ends[1], 4, 0) : vmsplice(x.fd, &vector, 1, 0));
        close(ends[0]);
        close(ends[1]);
        return true;
    }
    if (is(call, "sendfile-from") || is(call, "copy_file_range")) {
        file = pattern_file();
        outcome(is(call, "sendfile-from") ? sendfile(file, x.fd, NULL, 4) : copy_file_range(x.fd, NULL, file, NULL, 4, 0));
        close(file);
        return true;
    }
    return false;
}

/* preadv2/pwritev2 OFFSET FLAGS, preadv/pwritev OFFSET */
static bool vector_operation(char **words)
{
    static unsigned char bytes[8];
    struct iovec vectors[2] = {{bytes, 3}, {bytes + 3, 5}};
    const char *call = words[0];
    off_t offset = number(words[1]);
    int flags = (int)number(words[2]);
    bool reads = strncmp(call, "preadv", 6) == 0;
    if (!reads && strncmp(call, "pwritev", 7) != 0)
        return false;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = reads ? 0 : (unsigned char)(x.sent + i);
    long value = is(call, "preadv")    ? preadv(x.fd, vectors, 2, offset)
                 : is(call, "preadv2") ? preadv2(x.fd, vectors, 2, offset, flags)
                 : is(call, "pwritev") ? pwritev(x.fd, vectors, 2, offset)
                                       : pwritev2(x.fd, vectors, 2, offset, flags);
    outcome(value);
    if (!reads && value > 0)
        x.sent += (unsigned)value;
    for (long i = 0; reads && !x.packets && !x.echoes && i < value; i++)
        say(" %02x", bytes[i]);
    return true;
}

/* poll MASK: what is told to one who asks for less than everything. */
static void poll_operation(char **words)
{
    struct pollfd entry = {x.fd, (short)number(words[1]), 0};
    outcome(poll(&entry, 1, 0));
    say(" %x", (unsigned short)entry.revents);
}

/* pselect COUNT NANOSECONDS: with a count or a time that is none, too. */
static void pselect_operation(char **words)
{
    fd_set set;
    struct timespec time = {0, number(words[2])};
    int count = is(words[1], "fd") ? x.fd + 1 : (int)number(words[1]);
    FD_ZERO(&set);
    FD_SET(x.fd, &set);
    outcome(pselect(count, NULL, &set, NULL, &time, NULL));
    say(" %d", FD_ISSET(x.fd, &set) != 0);
}

/* epoll OPERATION EVENTS: with a set that watches the socket already, or with another. */
static void epoll_operation(char **words)
{
    struct epoll_event event = {.events = (unsigned)strtoul(words[2], NULL, 0)};
    int other = epoll_create1(EPOLL_CLOEXEC), ready;
    if (is(words[1], "again"))
        outcome(epoll_ctl(x.set, EPOLL_CTL_ADD, x.fd, &event));
    else if (is(words[1], "absent"))
        outcome(epoll_ctl(other, EPOLL_CTL_MOD, x.fd, &event));
    else if (is(words[1], "null"))
        outcome(epoll_ctl(other, EPOLL_CTL_ADD, x.fd, NULL));
    else if (is(words[1], "itself"))
        outcome(epoll_ctl(x.fd, EPOLL_CTL_ADD, other, &event));
    else if (outcome(epoll_ctl(other, EPOLL_CTL_ADD, x.fd, &event)))
        for (int i = 0; i < 2; i++) {
            event.events = 0;
            ready = epoll_wait(other, &event, 1, 0);
            say(" %d:%x", ready, ready == 1 ? event.events : 0);
        }
    close(other);
}

/* dup2 and dup3 FLAGS: a copy with a number of its own takes the socket's place. */
static bool copy_operation(char **words)
{
    enum { COPY = 60 };
    int copy;
    if (is(words[0], "dup2"))
        copy = dup2(x.fd, COPY);
    else if (is(words[0], "dup3"))
        copy = dup3(x.fd, COPY, (int)number(words[1]));
    else
        return false;
    if (!outcome(copy))
        return true;
    say(" flags %x", (unsigned)fcntl(copy, F_GETFD));
    /* The copy goes again; the socket stays as it is. */
    close(copy);
    return true;
}

static bool file_operation(char **words)
{
    const char *call = words[0];
    struct statfs status;
    if (is(call, "mmap")) {
        void *place = mmap(NULL, 4096, PROT_READ, MAP_SHARED, x.fd, 0);
        outcome(place == MAP_FAILED ? -1 : 0);
    } else if (is(call, "flock"))
        outcome(flock(x.fd, LOCK_SH | LOCK_NB));
    else if (is(call, "fallocate"))
        outcome(fallocate(x.fd, 0, 0, 1));
    else if (is(call, "fdatasync"))
        outcome(fdatasync(x.fd));
    else if (is(call, "fchdir"))
        outcome(fchdir(x.fd));
    else if (is(call, "openat"))
        outcome(openat(x.fd, "name", O_RDONLY | O_CLOEXEC));
    else if (is(call, "readahead"))
        outcome(readahead(x.fd, 0, 1));
    else if (is(call, "fadvise"))
        outcome(posix_fadvise(x.fd, 0, 1, POSIX_FADV_NORMAL));
    else if (is(call, "fstatfs")) {
        if (outcome(fstatfs(x.fd, &status)))
            say(" %lx", (unsigned long)status.f_type);
    } else if (is(call, "sockatmark"))
        outcome(sockatmark(x.fd));
    else
        return false;
    return true;
}

bool descriptor_operation(char **words)
{
    const char *call = words[0];
    if (is(call, "sendfile"))
        sendfile_operation(words);
    else if (is(call, "splice"))
        splice_operation(words);
    else if (is(call, "poll"))
        poll_operation(words);
    else if (is(call, "pselect"))
        pselect_operation(words);
    else if (is(call, "epoll"))
        epoll_operation(words);
    else
        return between_operation(call) || vector_operation(words) || copy_operation(words) || file_operation(words);
    return true;
}
