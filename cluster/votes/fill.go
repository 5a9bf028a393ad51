package votes

import "os"

// fill writes zeros behind the end of the file, up to n bytes: the portable way to own the disk.
func fill(f *os.File, n int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for at := info.Size(); at < n; {
		w, err := f.WriteAt(zeros[:min(int64(len(zeros)), n-at)], at)
		if err != nil {
			return err
		}
		at += int64(w)
	}
	return nil
}
