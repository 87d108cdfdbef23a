/* A rank that reduces until that fails, and then tells how. In place where it is told so. */
#include "expect.h"

#include <string.h>

int main(void) {
    static float data[1 << 20], apart[1 << 20];
    float *result_at = getenv("MORTAL_IN_PLACE") != NULL ? data : apart;
    roundel_comm_t comm;
    roundel_error_details_t details = {.size = sizeof details};
    roundel_result_t result;
    OK(roundel_init(&comm, NULL));
    OK(roundel_barrier(comm));
    say("ready");
    while ((result = roundel_all_reduce(data, result_at, 1 << 20, ROUNDEL_FLOAT32, ROUNDEL_MAX, comm)) == ROUNDEL_SUCCESS) {
    }
    OK(roundel_last_error_details(&details));
    EXPECT(details.code == result && details.rank_count == 1);
    /* The news may come between two calls. */
    EXPECT(details.done_bytes <= details.total_bytes);
    EXPECT(details.done_bytes == 0 || strstr(details.message, " % done here, ") != NULL);
    EXPECT(details.buffer == ROUNDEL_BUFFER_INTACT || (result_at == data && details.total_bytes > 0));
    EXPECT(details.buffer == ROUNDEL_BUFFER_INTACT || strstr(details.message, "buffer undefined") != NULL);
    EXPECT(strcmp(details.function, "roundel_all_reduce") == 0);
    printf("\n@@lost %d %d %s\n", result, details.ranks[0], details.message);
    fflush(stdout);
    /* It stays like that, and leaving is not held up. */
    EXPECT(roundel_barrier(comm) == result && roundel_comm_status(comm) == result);
    OK(roundel_last_error_details(&details));
    EXPECT(details.buffer == ROUNDEL_BUFFER_INTACT && details.total_bytes == 0);
    OK(roundel_comm_destroy(comm));
    return 0;
}
