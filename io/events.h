#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace mbconv::io {

// A TensorBoard event file, OUT/events.out.tfevents.SECONDS.HOST.PID.mbconv, in TFRecord framing:
// file_version "brain.Event:2", a SessionLog START at `first_step` (a resumed run: later steps of an
// earlier attempt are dropped by readers), then scalars.
class EventWriter {
 public:
  EventWriter(const std::string& folder, int64_t first_step);
  ~EventWriter();

  void scalar(const std::string& tag, int64_t step, double value);
  // Hands what was written to the operating system. Throws Error.
  void flush();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mbconv::io
