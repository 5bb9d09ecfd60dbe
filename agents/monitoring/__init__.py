"""What a run reports: records, metrics, TensorBoard, the console."""
