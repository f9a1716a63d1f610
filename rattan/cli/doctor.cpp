// rattan doctor: what this program runs on, what is missing and how to get it.
#include <ATen/Parallel.h>
#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "rattan/base/version.h"
#include "rattan/cli/cuda_devices.h"
#include "rattan/cli/doctor_torch.h"
#include "rattan/cli/verb.h"
#include "rattan/kernels/cpu/isa.h"

namespace rattan::cli {
namespace doctor_file {

using nlohmann::json;

// The first value of `key` in a file of "key : value" lines, such as /proc/cpuinfo.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const std::size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

int64_t available_memory() {
  const std::string kilobytes = proc_value("/proc/meminfo", "MemAvailable");
  return kilobytes.empty() ? 0 : std::stoll(kilobytes) * 1024;
}

struct Finding {
  std::string what, remedy;
};

struct Report {
  TorchReport torch;
  CudaReport cuda;
  std::string processor;
  std::vector<std::string> isas;
  std::string active_isa;
  unsigned cores = 0;
  int threads = 0;
  int64_t memory = 0;
  std::vector<Finding> findings;
};

void look_for_problems(Report& r) {
  auto find = [&](std::string what, std::string remedy) { r.findings.push_back({std::move(what), std::move(remedy)}); };
  if (r.torch.moved())
    find(fmt::format("torch comes from {}, but this rattan was built with the one in {}", r.torch.folder,
                     r.torch.built_folder),
         "fine if both are the same version; else unset LD_LIBRARY_PATH, or build again (./dev build)");
  if (!r.torch.version.empty() && r.torch.version != r.torch.built_version)
    find(fmt::format("torch {} runs, but this rattan was compiled for {}", r.torch.version, r.torch.built_version),
         "put the same version back (pip install torch==" + r.torch.built_version + "), or build again (./dev build)");
  const bool bf16 = std::find(r.isas.begin(), r.isas.end(), "avx512bf16") != r.isas.end();
  if (!bf16)
    find("this processor does not multiply bf16 itself",
         "use --dtype fp32 (train.precision=fp32); bf16 works, but slower");
  if (!r.isas.empty() && r.active_isa != r.isas.back())
    find(fmt::format("the kernels use {} although the processor has {}", r.active_isa, r.isas.back()),
         "unset RATTAN_ISA");
  if (r.threads < static_cast<int>(r.cores))
    find(fmt::format("{} of {} cores are used", r.threads, r.cores), "unset OMP_NUM_THREADS, or pass --threads");
  if (!r.cuda.problem.empty()) find("no GPU can be used", r.cuda.problem);
}

Report examine() {
  Report r;
  r.torch = torch_report();
  r.cuda = cuda_report();
  r.processor = proc_value("/proc/cpuinfo", "model name");
  for (kernels::Isa isa : kernels::supported_isas()) r.isas.emplace_back(kernels::name(isa));
  r.active_isa = kernels::name(kernels::active_isa());
  r.cores = std::thread::hardware_concurrency();
  r.threads = at::get_num_threads();
  r.memory = available_memory();
  look_for_problems(r);
  return r;
}

json to_json(const Report& r) {
  json devices = json::array({{{"device", "cpu"}, {"name", r.processor}}}), findings = json::array();
  for (std::size_t i = 0; i < r.cuda.devices.size(); ++i) {
    const CudaDevice& d = r.cuda.devices[i];
    devices.push_back({{"device", fmt::format("cuda:{}", i)},
                       {"name", d.name},
                       {"compute_capability", fmt::format("{}.{}", d.major, d.minor)},
                       {"memory_bytes", d.memory_bytes},
                       {"kernels", cuda_path(d.major, d.minor)},
                       {"fp8_products", has_fp8_products(d.major)}});
  }
  for (const Finding& f : r.findings) findings.push_back({{"problem", f.what}, {"remedy", f.remedy}});
  return {{"version", version()},
          {"torch",
           {{"version", r.torch.version},
            {"folder", r.torch.folder},
            {"built_version", r.torch.built_version},
            {"built_folder", r.torch.built_folder},
            {"moved", r.torch.moved()}}},
          {"cuda", {{"built", r.cuda.built}, {"driver", r.cuda.driver}, {"runtime", r.cuda.runtime}}},
          {"instruction_sets", r.isas},
          {"active_instruction_set", r.active_isa},
          {"cores", r.cores},
          {"threads", r.threads},
          {"available_memory_bytes", r.memory},
          {"devices", std::move(devices)},
          {"findings", std::move(findings)}};
}

void print_people(const Report& r) {
  std::string isas;
  for (const std::string& isa : r.isas)
    isas += (isas.empty() ? "" : ", ") + isa + (isa == r.active_isa ? " (in use)" : "");
  fmt::print("rattan       {}{}\n", version(), r.cuda.built ? ", with CUDA kernels" : ", without CUDA kernels");
  fmt::print("torch        {} in {}{}\n", r.torch.version, r.torch.folder, r.torch.moved() ? " (moved)" : "");
  fmt::print("processor    {}\ninstructions {}\nthreads      {} of {} cores\nmemory       {:.1f} GB available\n",
             r.processor, isas, r.threads, r.cores, static_cast<double>(r.memory) / 1e9);
  if (!r.cuda.driver.empty()) fmt::print("CUDA         driver {}, runtime {}\n", r.cuda.driver, r.cuda.runtime);
  for (std::size_t i = 0; i < r.cuda.devices.size(); ++i) {
    const CudaDevice& d = r.cuda.devices[i];
    fmt::print("cuda:{:<8}{}, compute capability {}.{}, {:.1f} GB; {}; {}\n", i, d.name, d.major, d.minor,
               static_cast<double>(d.memory_bytes) / 1e9, cuda_path(d.major, d.minor),
               has_fp8_products(d.major) ? "fp8 products" : "no fp8 products (they take 9.0)");
  }
  fmt::print("\n{}\n", r.findings.empty() ? "Nothing is missing." : "To know:");
  for (const Finding& f : r.findings) fmt::print("- {}.\n  {}.\n", f.what, f.remedy);
}

void declare(CLI::App& verb) {
  auto json = std::make_shared<bool>(false);
  verb.add_flag("--json", *json, "print one JSON document");
  verb.callback([json] {
    const Report report = examine();
    *json ? print_json(to_json(report)) : print_people(report);
  });
}

}  // namespace doctor_file

extern const Verb doctor_verb;
const Verb doctor_verb = {"doctor", "versions, devices, instruction sets, and what is missing", doctor_file::declare};

}  // namespace rattan::cli
