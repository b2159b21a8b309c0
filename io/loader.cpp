#include "io/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <limits>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>

#include "io/decode.h"
#include "lib/buffer.h"
#include "lib/error.h"
#include "lib/rng.h"

namespace mbconv::io {
namespace {

// One sample to prepare: which record, and where its picture goes.
struct Job {
  size_t slot;
  int position;  // in the batch
  uint32_t record, epoch;
};

// One batch of the ring. Its pictures and labels belong to the jobs until `left` is 0.
struct Slot {
  int64_t first_sample = 0;
  int count = 0;
  int left = 0;  // jobs not finished
  // Of the first sample that could not be prepared.
  int bad_position = std::numeric_limits<int>::max();
  std::string error = {};
};

void check(const LoaderOptions& o, size_t records) {
  require(records > 0, "there are no records to load");
  require(records <= std::numeric_limits<uint32_t>::max(), "the loader counts records in 32 bits, ",
          records, " are too many");
  require(o.batch >= 1, "the batch size must be at least 1, got ", o.batch);
  require(o.size >= 1, "the picture size must be at least 1, got ", o.size);
  require(o.classes >= 1, "the number of classes must be at least 1, got ", o.classes);
  require(o.first_sample >= 0, "the first sample must be at least 0, got ", o.first_sample);
  require(o.prefetch >= 0, "the batches to prepare ahead must be at least 0, got ", o.prefetch);
  check_ranges(o.ranges);
  for (const float stddev : o.normalisation.stddev) {
    require(stddev > 0, "pictures are divided by a deviation that must be above 0, got ", stddev);
  }
}

}  // namespace

// Shared with the tasks that were submitted to the workers: one may run after the loader is gone,
// and then finds no job.
struct Loader::State : std::enable_shared_from_this<State> {
  State(const RecordSet& record_set, Workers& threads, const LoaderOptions& loader_options)
      : records(record_set),
        workers(threads),
        options(loader_options),
        image_values(size_t{3} * static_cast<size_t>(options.size) *
                     static_cast<size_t>(options.size)),
        ring(static_cast<size_t>(options.prefetch) + 1),
        images(ring.size() * static_cast<size_t>(options.batch) * image_values * sizeof(float)),
        labels(ring.size() * static_cast<size_t>(options.batch)),
        next_sample(options.first_sample) {}

  const RecordSet& records;
  Workers& workers;
  const LoaderOptions options;
  const size_t image_values;  // of one picture

  std::mutex mutex;
  std::condition_variable finished;  // a batch, or with no job left the last running one
  // Guarded by `mutex`, as are the members of the slots.
  std::deque<Job> jobs;  // not begun, in the order of samples
  int running = 0;
  std::vector<Slot> ring;

  Buffer images;                // [ring, batch, size, size, 3]
  std::vector<int32_t> labels;  // [ring, batch]

  // Touched by the thread that calls next() alone.
  size_t current = 0;  // the slot that next() returns next
  bool held = false;   // whether the caller has the slot before it
  int64_t next_sample;
  std::vector<uint32_t> order;  // the permutation of `order_epoch`
  int64_t order_epoch = -1;
  double wait_seconds = 0;

  size_t place(size_t slot, int position) const {
    return slot * static_cast<size_t>(options.batch) + static_cast<size_t>(position);
  }
  float* image(size_t slot, int position) const {
    return images.as<float>() + place(slot, position) * image_values;
  }

  void permute(int64_t epoch);
  Job job_of(int64_t sample, size_t slot, int position);
  void schedule(size_t slot);
  void prepare(const Job& job);
  bool run_one();
  void wait_for(const Slot& slot);
};

// Fisher and Yates's shuffle. One epoch is held at a time: samples are scheduled in order.
void Loader::State::permute(int64_t epoch) {
  order.resize(records.size());
  std::iota(order.begin(), order.end(), 0u);
  order_epoch = epoch;
  Rng rng(options.seed, static_cast<uint32_t>(epoch), 0, Purpose::shuffle);
  for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[rng.below(i + 1)]);
}

Job Loader::State::job_of(int64_t sample, size_t slot, int position) {
  const auto count = static_cast<int64_t>(records.size());
  const int64_t epoch = sample / count;
  auto record = static_cast<uint32_t>(sample % count);
  if (options.training && options.shuffle) {
    if (epoch != order_epoch) permute(epoch);
    record = order[record];
  }
  return {slot, position, record, static_cast<uint32_t>(epoch)};
}

// Has the next batch prepared in `slot`, beside whatever the workers do.
void Loader::State::schedule(size_t slot) {
  int count = options.batch;
  if (!options.training) {
    const int64_t left = static_cast<int64_t>(records.size()) - next_sample;
    count = static_cast<int>(std::clamp<int64_t>(left, 0, count));
  }
  std::vector<Job> batch;
  for (int i = 0; i < count; ++i) batch.push_back(job_of(next_sample + i, slot, i));
  {
    const std::lock_guard lock(mutex);
    ring[slot] = Slot{next_sample, count, count};
    jobs.insert(jobs.end(), batch.begin(), batch.end());
  }
  next_sample += count;
  if (workers.threads() == 1) return;
  // A task takes any job, and finds none if the thread in next() was faster.
  for (int i = 0; i < count; ++i) {
    workers.submit([state = shared_from_this()] { state->run_one(); });
  }
}

void Loader::State::prepare(const Job& job) {
  thread_local std::vector<std::byte> record;
  records.read(job.record, record);  // its errors name file, record and offset themselves
  try {
    const LabelledImage example = parse_labelled_image(record, options.keys);
    require(0 <= example.label && example.label < options.classes, "the label ", example.label,
            " lies outside [0, ", options.classes, ")");
    const Image picture = decode_image(example.encoded, options.max_side);
    float* out = image(job.slot, job.position);
    if (options.training && options.augment) {
      Rng rng(options.seed, job.epoch, job.record, Purpose::augment);
      const AugmentDraw draw =
          draw_augmentation(picture.width, picture.height, options.ranges, rng);
      augment(picture, draw, options.size, options.normalisation, out);
    } else {
      prepare_validation(picture, validation_resize(options.size), options.size,
                         options.normalisation, out);
    }
    labels[place(job.slot, job.position)] = static_cast<int32_t>(example.label);
  } catch (const std::exception& e) {
    throw Error(records.describe(job.record), ": ", e.what());
  }
}

// Takes a job and runs it. False if there was none.
bool Loader::State::run_one() {
  std::unique_lock lock(mutex);
  if (jobs.empty()) return false;
  const Job job = jobs.front();
  jobs.pop_front();
  ++running;
  lock.unlock();
  std::string error;
  try {
    prepare(job);
  } catch (const std::exception& e) {
    error = e.what();
  }
  lock.lock();
  --running;
  Slot& slot = ring[job.slot];
  --slot.left;
  if (!error.empty() && job.position < slot.bad_position) {
    slot.bad_position = job.position;
    slot.error = std::move(error);
  }
  if (slot.left == 0 || (running == 0 && jobs.empty())) finished.notify_all();
  return true;
}

// Runs jobs until those of `slot` are done, and sleeps only where other threads have taken all.
void Loader::State::wait_for(const Slot& slot) {
  using Clock = std::chrono::steady_clock;
  std::unique_lock lock(mutex);
  if (slot.left == 0) return;
  const Clock::time_point start = Clock::now();
  while (slot.left > 0) {
    if (jobs.empty()) {
      finished.wait(lock);
    } else {
      lock.unlock();
      run_one();
      lock.lock();
    }
  }
  wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
}

Loader::Loader(const RecordSet& records, Workers& workers, const LoaderOptions& options) {
  check(options, records.size());
  state_ = std::make_shared<State>(records, workers, options);
  for (size_t slot = 0; slot < state_->ring.size(); ++slot) state_->schedule(slot);
}

Loader::~Loader() {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.jobs.clear();
  s.finished.wait(lock, [&s] { return s.running == 0; });
  s.images = Buffer();  // tasks that have not run yet keep the rest
}

Batch Loader::next() {
  State& s = *state_;
  const size_t slots = s.ring.size();
  if (s.held) s.schedule((s.current + slots - 1) % slots);
  s.held = true;
  const size_t index = s.current;
  s.current = (index + 1) % slots;
  const Slot& slot = s.ring[index];
  s.wait_for(slot);
  // Nobody else touches a finished slot.
  require(slot.error.empty(), slot.error);
  const auto count = static_cast<size_t>(slot.count);
  return {.images = {s.image(index, 0), count * s.image_values},
          .labels = {s.labels.data() + s.place(index, 0), count},
          .count = slot.count,
          .first_sample = slot.first_sample};
}

double Loader::take_wait_seconds() {
  return std::exchange(state_->wait_seconds, 0.0);
}

}  // namespace mbconv::io
