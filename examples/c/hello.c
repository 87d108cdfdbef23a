/* Every rank contributes its number; every rank gets the sum. The README says how to build and start it. */
#include <roundel.h>
#include <stdio.h>
#include <stdlib.h>

static void check(roundel_result_t result) {
    if (result != ROUNDEL_SUCCESS) {
        fprintf(stderr, "%s\n", roundel_last_error());
        exit(1);
    }
}

int main(void) {
    roundel_comm_t comm;
    int32_t rank, world;
    check(roundel_init(&comm, NULL)); /* mpirun, torchrun, srun, or a world of one */
    check(roundel_comm_rank(comm, &rank));
    check(roundel_comm_world(comm, &world));

    float data[3] = {(float)rank, 1, 0.5f};
    check(roundel_all_reduce(data, data, 3, ROUNDEL_FLOAT32, ROUNDEL_SUM, comm));
    printf("rank %d of %d: %g %g %g\n", rank, world, data[0], data[1], data[2]);

    check(roundel_comm_destroy(comm));
    return 0;
}
