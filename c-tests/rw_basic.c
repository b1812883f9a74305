/* read, write, readv, writev, pread, lseek and their arguments on a connection. */
#include "t.h"

/* test REF D-01 */
int main(void)
{
    char data[64] = "", tail[8] = "";
    struct iovec parts[3];
    volatile int negative = -1, excess = 1025;

    t_begin();
    int fd = MUST(peer_connect(PORT_ECHO));
    CHECK_EQ(write(fd, "", 0), 0, "write of nothing: 0");
    CHECK_EQ(read(fd, data, 0), 0, "read of nothing: 0, without waiting");
    CHECK_EQ(write(fd, "abcdef", 6), 6, "write");
    CHECK_EQ(t_read_all(fd, data, 3), 3, "read takes what is asked for");
    CHECK_EQ(t_read_all(fd, data + 3, 3), 3, "and leaves the rest");
    CHECK(memcmp(data, "abcdef", 6) == 0, "in order");

    parts[0] = (struct iovec){"one", 3};
    parts[1] = (struct iovec){NULL, 0};
    parts[2] = (struct iovec){"three", 5};
    CHECK_EQ(writev(fd, parts, 3), 8, "writev of three parts, one empty");
    CHECK(t_wait(fd, POLLIN) & POLLIN, "the echo comes");
    CHECK_EQ(recv(fd, data, 8, MSG_WAITALL | MSG_PEEK), 8, "all of it");
    memset(data, 0, sizeof data);
    parts[0] = (struct iovec){data, 5};
    parts[1] = (struct iovec){tail, 8};
    CHECK_EQ(readv(fd, parts, 2), 8, "readv fills the parts in turn");
    CHECK(memcmp(data, "oneth", 6) == 0, "the first part");
    CHECK(memcmp(tail, "ree", 4) == 0, "the second part");
    CHECK_EQ(writev(fd, parts, 0), 0, "writev of no parts: 0");
    CHECK_ERRNO(writev(fd, parts, negative), EINVAL, "writev of -1 parts: EINVAL");
    CHECK_ERRNO(writev(fd, parts, excess), EINVAL, "writev of 1025 parts: EINVAL");
    parts[1].iov_len = (size_t)-1;
    CHECK_ERRNO(writev(fd, parts, 2), EINVAL, "a part of negative length: EINVAL");

    CHECK_ERRNO(pread(fd, data, 1, 0), ESPIPE, "pread: ESPIPE");
    CHECK_ERRNO(pwrite(fd, data, 1, 0), ESPIPE, "pwrite: ESPIPE");
    CHECK_ERRNO(lseek(fd, 0, SEEK_SET), ESPIPE, "lseek: ESPIPE");
    parts[0] = (struct iovec){data, 4};
    CHECK_ERRNO(preadv(fd, parts, 1, 0), ESPIPE, "preadv: ESPIPE");
    CHECK_ERRNO(pwritev(fd, parts, 1, 0), ESPIPE, "pwritev: ESPIPE");
    memcpy(data, "wxyz", 4);
    CHECK_EQ(pwritev2(fd, parts, 1, -1, 0), 4, "pwritev2 with offset -1 writes");
    CHECK(t_wait(fd, POLLIN) & POLLIN, "the echo comes");
    CHECK_EQ(preadv2(fd, parts, 1, -1, 0), 4, "preadv2 with offset -1 reads");

    CHECK_ERRNO(write(fd, t_nowhere, 4), EFAULT, "write from nowhere: EFAULT");
    CHECK_EQ(write(fd, "safe", 4), 4, "the connection lives on");
    CHECK(t_wait(fd, POLLIN) & POLLIN, "the echo comes");
    CHECK_ERRNO(read(fd, t_nowhere, 4), EFAULT, "read to nowhere: EFAULT");
    CHECK_EQ(t_read_all(fd, data, 4), 4, "and loses no byte");
    CHECK(memcmp(data, "safe", 4) == 0, "as the next read shows");
    CHECK_EQ(send(fd, "to", 2, 0), 2, "send");
    struct sockaddr_in other = t_address(T_NOROUTE, 9);
    CHECK_EQ(sendto(fd, "gether", 6, 0, (struct sockaddr *)&other, sizeof other), 6, "sendto ignores the address");
    socklen_t length = sizeof other;
    memset(&other, 0xee, sizeof other);
    CHECK_EQ(recvfrom(fd, data, 8, MSG_WAITALL, (struct sockaddr *)&other, &length), 8, "recvfrom");
    CHECK_EQ(length, 0, "a stream names no sender: length 0");
    close(fd);
    CHECK_ERRNO(read(fd, data, 1), EBADF, "read after close: EBADF");
    CHECK_ERRNO(write(fd, data, 1), EBADF, "write after close: EBADF");
    return t_end();
}
