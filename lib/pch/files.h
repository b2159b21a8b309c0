// Precompiled for io and bin: what they include besides portable.h.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <mutex>
#include <sstream>
#include <thread>
#include <variant>

#include "lib/pch/portable.h"
