// What every CUDA launch of the project goes through.
#pragma once
#include <cstdint>

namespace rattan::kernels::cuda {

// Throws rattan::Error naming the kernel if the launch just made was refused (or an earlier one failed).
void check_launch(const char* kernel);

// Zeroes device memory on the stream; `what` names it in the error.
void zero_async(void* data, int64_t bytes, const char* what, void* stream);

// Fills device memory with one byte value on the stream.
void fill_async(void* data, int value, int64_t bytes, const char* what, void* stream);

// Lets `kernel` use more than 48 KB of dynamic shared memory. Throws rattan::Error when the device has less.
void allow_shared_memory(const void* kernel, int64_t bytes, const char* name);

// Throws rattan::Error unless dim <= 256, the largest head dimension the attention kernels are compiled for.
void check_dim(const char* kernel, int64_t dim);

// Whether a kernel on this stream may start before its predecessor ends: a graph is being recorded, on a device that
// can do it (dependent_launch.cuh).
bool may_start_early(void* stream);

// Of the current device.
int multiprocessors();
int64_t block_shared_memory();  // bytes that a block may have, where they are asked for

// out[c] = sum over r of partial[r, c], in an order that depends on `rows` alone. [rows, dim] -> [dim]
void column_sum(const float* partial, int64_t rows, int64_t dim, float* out, void* stream);

}  // namespace rattan::kernels::cuda
