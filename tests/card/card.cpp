// A CUDA that exists in name only: autograd then takes tensors that say "cuda:0", on a CPU build of torch.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace at {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Device card() { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return card(); }
  Device getDevice() const override { return card(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, card()); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, card()); }
};

struct CUDAHooks final : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)
REGISTER_CUDA_HOOKS(CUDAHooks)

} // namespace at
