/* Copies with a socket at an end: sendfile with and without an offset, splice both ways, 2 MB there and back by pipes,
 * end and errors; what Linux refuses a socket. */
#include <sys/sendfile.h>

#include "services.h"
#include "t.h"

enum { AMOUNT = 2 << 20, PART = 65536 };

static int pattern_file(size_t size)
{
    static unsigned char data[PART];
    char path[] = "/tmp/copies.XXXXXX";
    int fd = MUST(mkstemp(path));
    unlink(path);
    for (size_t done = 0; done < size; done += PART) {
        pattern_fill(data, PART, done);
        if (t_write_all(fd, data, PART) != PART)
            MUST(-1);
    }
    MUST(lseek(fd, 0, SEEK_SET));
    return fd;
}

static void files(void)
{
    int control, fd = peer_pair(&control), file = pattern_file(AMOUNT);
    off_t offset = 0;
    CHECK_EQ(sendfile(fd, file, &offset, 1000), 1000, "sendfile with an offset");
    CHECK_EQ(offset, 1000, "which moves");
    CHECK_EQ(lseek(file, 0, SEEK_CUR), 0, "and the file's position does not");
    MUST(lseek(file, 1000, SEEK_SET));
    CHECK_EQ(sendfile(fd, file, NULL, 2000), 2000, "sendfile without");
    CHECK_EQ(lseek(file, 0, SEEK_CUR), 3000, "moves the position");
    CHECK_EQ(peer_ask(control, "RECV 3000"), 3000, "the peer has both");
    offset = AMOUNT - 10;
    CHECK_EQ(sendfile(fd, file, &offset, 100), 10, "no more than the file has");
    CHECK_EQ(sendfile(fd, file, &offset, 100), 0, "at its end nothing");
    offset = -1;
    CHECK_ERRNO(sendfile(fd, file, &offset, 1), EINVAL, "a negative offset: EINVAL");
    CHECK_ERRNO(sendfile(file, fd, NULL, 1), EINVAL, "sendfile from a socket: EINVAL");
    offset = 0;
    CHECK_ERRNO(sendfile(file, fd, &offset, 1), ESPIPE, "with an offset: ESPIPE");
    close(fd);
    close(control);
    close(file);
}

/* Puts the file into the socket by a pipe, while the other pipe takes what comes back. */
static void there_and_back(void)
{
    static unsigned char data[PART];
    int fd = MUST(peer_connect(PORT_ECHO)), file = pattern_file(AMOUNT), in[2], out[2];
    MUST(pipe(in));
    MUST(pipe(out));
    pid_t writer = MUST(fork());
    if (writer == 0) {
        size_t done = 0;
        while (done < AMOUNT) {
            ssize_t filled = splice(file, NULL, in[1], NULL, PART, 0);
            for (ssize_t left = filled, moved; left > 0; left -= moved)
                if ((moved = splice(in[0], NULL, fd, NULL, (size_t)left, SPLICE_F_MORE)) <= 0)
                    _exit(1);
            if (filled <= 0)
                _exit(2);
            done += (size_t)filled;
        }
        _exit(shutdown(fd, SHUT_WR) == 0 ? 0 : 3);
    }
    size_t done = 0;
    ssize_t moved;
    bool good = true;
    while ((moved = splice(fd, NULL, out[1], NULL, PART, 0)) > 0) {
        good = t_read_all(out[0], data, (size_t)moved) == moved && good;
        good = pattern_match(data, (size_t)moved, done) == (size_t)moved && good;
        done += (size_t)moved;
    }
    int status = -1;
    waitpid(writer, &status, 0);
    CHECK_EQ(status, 0, "2 MB go from a file by a pipe to the socket");
    CHECK_EQ(moved, 0, "the end is the end of the stream");
    CHECK_EQ(done, AMOUNT, "and all comes back by another pipe");
    CHECK(good, "as it was");
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
    close(file);
    close(fd);
}

static void refused(void)
{
    int control, fd = peer_pair(&control), pipes[2];
    loff_t offset = 0;
    MUST(pipe(pipes));
    /* SPLICE_F_NONBLOCK is about pipes. */
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    CHECK_ERRNO(splice(fd, NULL, pipes[1], NULL, 10, 0), EAGAIN, "nothing there: EAGAIN");
    MUST(fcntl(fd, F_SETFL, 0));
    CHECK_ERRNO(splice(pipes[0], NULL, fd, NULL, 10, SPLICE_F_NONBLOCK), EAGAIN, "nor in the pipe: EAGAIN");
    CHECK_ERRNO(splice(fd, &offset, pipes[1], NULL, 10, 0), EINVAL, "an offset of the socket: EINVAL");
    CHECK_ERRNO(splice(pipes[0], NULL, fd, &offset, 10, 0), EINVAL, "of the socket written to: EINVAL");
    CHECK_ERRNO(splice(fd, NULL, control, NULL, 10, 0), EINVAL, "without a pipe: EINVAL");
    CHECK_ERRNO(splice(fd, NULL, pipes[1], NULL, 10, 0x100), EINVAL, "an unknown flag: EINVAL");
    CHECK_EQ(splice(fd, NULL, pipes[1], NULL, 0, 0), 0, "no bytes: 0");
    CHECK_ERRNO(tee(fd, pipes[1], 10, 0), EINVAL, "tee: EINVAL");
    CHECK_ERRNO(copy_file_range(fd, NULL, pipes[1], NULL, 10, 0), EINVAL, "copy_file_range: EINVAL");
    struct iovec part = {&control, sizeof control};
    CHECK_ERRNO(vmsplice(fd, &part, 1, 0), EBADF, "vmsplice: EBADF");
    CHECK_EQ(peer_ask(control, "RESET"), 0, "the peer resets");
    t_wait(fd, POLLERR);
    CHECK_ERRNO(splice(fd, NULL, pipes[1], NULL, 10, 0), ECONNRESET, "splice from it: ECONNRESET");
    CHECK_EQ(splice(fd, NULL, pipes[1], NULL, 10, 0), 0, "once");
    signal(SIGPIPE, SIG_IGN);
    CHECK_EQ(write(pipes[1], "x", 1), 1, "a byte in the pipe");
    CHECK_ERRNO(splice(pipes[0], NULL, fd, NULL, 1, 0), EPIPE, "splice to it: EPIPE");
    CHECK_EQ(read(pipes[0], &control, 1), 1, "the byte is still there");
    close(fd);
}

int main(void)
{
    t_begin();
    files();
    there_and_back();
    refused();
    return t_end();
}
