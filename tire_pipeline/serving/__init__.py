"""The serving process: onnxruntime behind FastAPI, without torch and mlflow. `server.serve` starts it."""
